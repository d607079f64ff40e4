"""What a declaration can be given; of the rest is said, at its line, what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_pg.errors import LoadError
from flux_pg.runtime.registry import load_functions

HEADER = "from flux_pg import Context, define_function\n\n\n"


def load(folder: Path, declaration: str) -> LoadError:
    """The fault of one declared function."""
    (folder / "functions").mkdir()
    body = "async def place(ctx: Context): ...\n"
    (folder / "functions" / "main.py").write_text(f"{HEADER}{declaration}\n{body}")
    registry = load_functions(folder)
    assert registry.functions == {}
    (error,) = registry.errors
    return error


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("retrys=1", "there is no argument 'retrys'", "Did you mean 'retries'?"),
        ("colour=1", "there is no argument 'colour'", "There are: name, method"),
        ("max_rows='many'", "max_rows cannot be 'many'", "a whole number above 0, or left out"),
        ("max_rows=1.5", "max_rows cannot be 1.5", "a whole number above 0"),
        ("max_cost=float('nan')", "max_cost cannot be nan", "a number above 0, or left out"),
        ("max_attempts=None", "max_attempts cannot be None", "It must be a whole number above 0."),
        ("concurrency=True", "concurrency cannot be True", "a whole number above 0, or left out"),
        ("retries=-1", "retries cannot be -1", "0 for none"),
        ("timeout='30s'", "timeout cannot be '30s'", "a number of seconds above 0"),
        ("timeout=0", "timeout cannot be 0", "a number of seconds above 0, or left out"),
        ("isolation='serialisable'", "isolation cannot be", "Did you mean 'serializable'?"),
        ("isolation=2", "isolation cannot be 2", "read committed, repeatable read, serializable"),
        ("method='FETCH'", "method cannot be 'FETCH'", "PATCH"),
        ("method=['GET']", "method cannot be ['GET']", "one of GET"),
        ("path='orders'", "path cannot be 'orders'", "begins with /"),
        ("durability='strickt'", "durability cannot be 'strickt'", "Did you mean 'strict'?"),
        ("transaction='no'", "transaction cannot be 'no'", "True or False"),
        ("name=7", "name cannot be 7", "a text"),
        ("auth='users'", "auth cannot be 'users'", "Did you mean 'user'?"),
        ("backoff='soon'", "backoff", ""),
    ],
)
def test_an_argument_that_cannot_be_is_named_at_its_line(
    tmp_path: Path, arguments: str, message: str, hint: str
) -> None:
    error = load(tmp_path, f"@define_function({arguments})")
    assert (error.path, error.line) == ("functions/main.py", 4)
    assert error.message.startswith("function place: ") and message in error.message
    assert hint in error.hint


def test_what_is_no_function_is_told_at_its_line(tmp_path: Path) -> None:
    error = load(tmp_path, "@define_function('place')")
    assert (error.path, error.line) == ("functions/main.py", 4)
    assert error.message == "define_function takes a function, not 'place'"
    assert error.hint == "Write @define_function(name='place')."


def test_a_class_is_no_function(tmp_path: Path) -> None:
    error = load(tmp_path, "@define_function(retries=0)\nclass Place: ...\n\n\n")
    assert error.line == 4 and "define_function takes a function, not <class" in error.message
