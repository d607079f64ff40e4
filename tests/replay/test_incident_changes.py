"""What makes the rows of a replay those of the record, with few changes."""

from __future__ import annotations

from typing import Any

from flux_pg.replay.incident_changes import Change, corrections


def change(op: str, key: str, **values: tuple[str | None, str | None]) -> Change:
    """A change of a row, with the values before and after it."""
    columns = ["id", *values] if op == "I" else list(values)
    old: Any = None if op == "I" else [before for before, _ in values.values()]
    new: Any = [*([key] if op == "I" else []), *(after for _, after in values.values())]
    return Change(
        1, 1, 1, None, "", "public", "t", op, [key], ["id"], columns, old,
        None if op == "D" else new,
    )  # fmt: skip


def test_only_what_differs_is_corrected() -> None:
    done = [change("I", "1", a=(None, "5"), at=(None, "now")), change("U", "2", n=("1", "2"))]
    then = [change("I", "1", a=(None, "5"), at=(None, "then")), change("U", "2", n=("1", "2"))]
    found = corrections(done, then)
    assert found is not None
    (only,) = found
    assert (only.op, only.key, only.columns) == ("U", ["1"], ["at"])
    assert (only.old, only.new) == (["now"], ["then"])


def test_what_is_not_alike_is_taken_back_whole() -> None:
    first = change("U", "1", n=("1", "2"))
    assert corrections([first], []) is None
    assert corrections([first], [change("U", "2", n=("1", "2"))]) is None
    assert corrections([first], [change("U", "1", n=("5", "6"))]) is None, "another row before it"
    assert corrections([first], [change("U", "1", m=("1", "2"))]) is None
    twice = [change("I", "1", n=(None, "1")), change("U", "1", n=("1", "2"))]
    assert corrections(twice, twice) is None
    keyless = first._replace(key=None, key_columns=None)
    assert corrections([keyless], [keyless]) is None


def test_what_is_the_same_needs_nothing() -> None:
    gone = change("D", "1", n=("1", None))
    assert corrections([gone], [gone]) == []
