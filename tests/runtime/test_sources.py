"""The code that runs is the code that is there, however fast it was saved again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LOADS = """
import sys
from pathlib import Path
from flux_pg.runtime.registry import load_functions

registry = load_functions(Path(sys.argv[1]))
assert not registry.errors, registry.errors
print(registry.functions["answer"].handler())
"""
FUNCTION = """
from flux_pg import define_function
from prices import {helper}
from shop.rates import RATE

@define_function
def answer():
    return {number}, PRICE, RATE
"""


def write(project: Path, number: int) -> None:
    """A version of the project; each of its files has the same size and time as in any other."""
    files = {
        "functions/main.py": FUNCTION.format(helper="PRICE", number=number),
        "functions/prices.py": f"PRICE = {number}\n",
        "shop/__init__.py": "",
        "shop/rates.py": f"RATE = {number}\n",
    }
    for name, text in files.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1_700_000_000, 1_700_000_000))


def load(project: Path) -> str:
    """What the function returns in a new process that may write compiled files."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(
        [sys.executable, "-c", LOADS, str(project)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_a_file_that_keeps_its_size_and_time_is_compiled_anew(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path, number)
        assert load(tmp_path) == str((number,) * 3)
    assert not list(tmp_path.rglob("__pycache__"))


def test_what_python_itself_compiled_is_not_taken(tmp_path: Path) -> None:
    write(tmp_path, 1)
    compileall = [sys.executable, "-m", "compileall", "-q", str(tmp_path)]
    subprocess.run(compileall, check=True)
    assert list(tmp_path.rglob("__pycache__"))
    write(tmp_path, 2)
    assert load(tmp_path) == "(2, 2, 2)"
