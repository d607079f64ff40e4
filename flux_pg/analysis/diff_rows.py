"""Which row change of one run is which of another: by table and key, then by what was inserted.

A key that the database drew from a sequence is another one in each run, so inserts that are alike
but for their keys are one change; the keys are then known to stand for each other, and later
changes of these rows are matched by that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flux_pg.analysis.diff_values import texts_in, tokens
from flux_pg.analysis.text import to_json

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RowPair:
    """One row change of either run or both."""

    a: Row | None
    b: Row | None


@dataclass(frozen=True, slots=True)
class RowMatch:
    """Row changes in pairs, in the order of the first run, and what the pairs say of keys.

    Attributes:
        pairs: Each change of either run once.
        drawn: Keys (as texts) that the database drew for the same insert in both runs.
        key_names: What such keys are called: columns, and tables in the singular.
    """

    pairs: list[RowPair]
    drawn: set[tuple[str, str]]
    key_names: set[str]


def match_rows(
    a: Sequence[Row], b: Sequence[Row], passed: Mapping[Any, frozenset[str]]
) -> RowMatch:
    """Match the row changes of two runs.

    Args:
        a: Mutations as in `flux.trace/1`, in order.
        b: Likewise.
        passed: Texts of the parameters of each span of both runs: a key that came with the
            statement that inserted it was not drawn.
    """
    match = _Match(a, b)
    match.join(lambda row: (_table(row), row["op"], row["outcome"], to_json(row["pk"])))
    match.join(lambda row: (_table(row), to_json(row["pk"])))
    match.join(lambda row: _insert_key(row, whole=True))
    match.join(lambda row: _insert_key(row, whole=False))
    drawn = _drawn(match.pairs, passed)
    ours = {y: x for x, y in drawn}
    match.join(lambda row: (_table(row), row["op"], _pk_text(row, {})), None, ours)
    pairs = []
    for x, y in match.pairs:
        if x is None or y is None or _is_one_row(x, y, drawn):
            pairs.append(RowPair(x, y))
        else:
            pairs += [RowPair(x, None), RowPair(None, y)]
    return RowMatch(pairs, drawn, _key_names(a))


class _Match:
    def __init__(self, a: Sequence[Row], b: Sequence[Row]) -> None:
        self._a, self._b = a, b
        self._of_a: dict[int, int] = {}
        self._of_b: dict[int, int] = {}

    def join(
        self,
        key: Callable[[Row], Any],
        _: None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        """Join what has the same key, first to first; None is no key."""
        waiting: dict[Any, list[int]] = {}
        for index in range(len(self._b) - 1, -1, -1):
            row = self._b[index]
            if index not in self._of_b:
                found = key(row) if not renamed else _renamed_key(row, renamed)
                waiting.setdefault(found, []).append(index)
        for index, row in enumerate(self._a):
            found = key(row)
            if index not in self._of_a and found is not None and waiting.get(found):
                other = waiting[found].pop()
                self._of_a[index], self._of_b[other] = other, index

    @property
    def pairs(self) -> list[tuple[Row | None, Row | None]]:
        """What is joined and what is alone; the second run's own stand where they stood there."""
        after: dict[int, list[Row]] = {}
        last = -1
        for index, row in enumerate(self._b):
            if index in self._of_b:
                last = self._of_b[index]
            else:
                after.setdefault(last, []).append(row)
        pairs: list[tuple[Row | None, Row | None]] = [(None, row) for row in after.get(-1, [])]
        for index, row in enumerate(self._a):
            other = self._of_a.get(index)
            pairs.append((row, None if other is None else self._b[other]))
            pairs += [(None, alone) for alone in after.get(index, [])]
        return pairs


def _table(row: Row) -> tuple[Any, Any]:
    return row["schema"], row["table"]


def _insert_key(row: Row, whole: bool) -> Any:
    """What makes two inserts alike: table, and all but the key (`whole`) or nothing else."""
    if row["op"] != "INSERT" or not isinstance(row["pk"], Mapping):
        return None
    new = row["new"] if isinstance(row["new"], Mapping) else {}
    rest = {name: value for name, value in sorted(new.items()) if name not in row["pk"]}
    return (_table(row), row["outcome"], to_json(rest) if whole else "")


def _pk_text(row: Row, renamed: Mapping[str, str]) -> Any:
    if not isinstance(row["pk"], Mapping):
        return None
    return tuple(
        (name, renamed.get(str(value), str(value))) for name, value in sorted(row["pk"].items())
    )


def _renamed_key(row: Row, renamed: Mapping[str, str]) -> Any:
    return _table(row), row["op"], _pk_text(row, renamed)


def _drawn(
    pairs: Sequence[tuple[Row | None, Row | None]], passed: Mapping[Any, frozenset[str]]
) -> set[tuple[str, str]]:
    """Whole numbers that differ as keys of matched inserts, and that no parameter brought."""
    found: set[tuple[str, str]] = set()
    for a, b in pairs:
        if a is None or b is None or a["op"] != "INSERT" or b["op"] != "INSERT":
            continue
        brought = passed.get(a["span_id"], frozenset()) | passed.get(b["span_id"], frozenset())
        found |= {
            (str(x), str(y))
            for x, y in _key_values(a, b)
            if type(x) is int and type(y) is int and x != y and not {str(x), str(y)} & brought
        }
    # One for one: a key that stands for two explains neither.
    ours, theirs = [x for x, _ in found], [y for _, y in found]
    return {(x, y) for x, y in found if ours.count(x) == 1 and theirs.count(y) == 1}


def drawn_in_failures(steps: Iterable[tuple[Row, Row]]) -> set[tuple[str, str]]:
    """Whole numbers that differ in the rows that a failed insert tells of, and that the database
    made: what was inserted is alike and was read from nowhere, so only defaults can differ.

    Args:
        steps: Spans of both runs, in pairs.
    """
    found: set[tuple[str, str]] = set()
    for a, b in steps:
        (fixed, ours), (other, theirs) = tokens(_failing_row(a)), tokens(_failing_row(b))
        kinds = [[kind for kind, _ in side] for side in (ours, theirs)]
        if not ours or fixed != other or kinds[0] != kinds[1]:
            continue
        if to_json(a.get("input")) == to_json(b.get("input")) and _inserts_only(a["input"]):
            passed = frozenset(texts_in(a["input"].get("params")))
            found |= {
                (x, y)
                for (kind, x), (_, y) in zip(ours, theirs, strict=True)
                if kind == "number" and x != y and not {x, y} & passed
            }
    return found


def _failing_row(span: Row) -> str:
    error = span.get("error")
    detail = error.get("detail") if isinstance(error, Mapping) else None
    return str(detail) if str(detail).startswith("Failing row contains (") else ""


def _inserts_only(asked: Any) -> bool:
    sql = str(asked.get("sql") if isinstance(asked, Mapping) else "")
    return re.match(r"\s*insert\b(?!.*\b(select|conflict)\b)", sql, re.I | re.S) is not None


def _key_names(rows: Sequence[Row]) -> set[str]:
    names = {"nextval", "currval", "lastval"}
    for row in rows:
        if row["op"] == "INSERT" and isinstance(row["pk"], Mapping):
            names |= {*row["pk"], str(row["table"]), str(row["table"]).removesuffix("s")}
    return names


def _key_values(a: Row, b: Row) -> list[tuple[Any, Any]]:
    if not (isinstance(a["pk"], Mapping) and isinstance(b["pk"], Mapping)):
        return []
    return [(a["pk"][name], b["pk"][name]) for name in a["pk"] if name in b["pk"]]


def _is_one_row(a: Row, b: Row, drawn: set[tuple[str, str]]) -> bool:
    """Whether two changes that were matched are of the same row, whatever its key is called."""
    values = _key_values(a, b)
    if to_json(a["pk"]) == to_json(b["pk"]):
        return True
    # A generated text is judged where values are judged; whole numbers must have been drawn.
    return bool(values) and all(
        x == y or (str(x), str(y)) in drawn or (_is_generated(x) and _is_generated(y))
        for x, y in values
    )


def _is_generated(value: Any) -> bool:
    kinds = [kind for kind, _ in tokens(value)[1]] if isinstance(value, str) else []
    return kinds in (["uuid"], ["hex"])
