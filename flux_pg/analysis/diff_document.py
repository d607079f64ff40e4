"""What a comparison says, as data: the `flux.diff/1` document, the verdict of a replay. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flux_pg.analysis.changes import key_text
from flux_pg.analysis.diff import Diff, Explained, RowDiff, SpanDiff, Verdict, compare, counts
from flux_pg.analysis.diff_run import Run
from flux_pg.analysis.diff_values import MISSING, Leaf
from flux_pg.analysis.text import to_json
from flux_pg.analysis.tree import Node, duration_of, start_of


def document(diff: Diff) -> dict[str, Any]:
    """The `flux.diff/1` document."""
    return {
        "schema": "flux.diff/1",
        "verdict": diff.verdict,
        "spans": [_request_json(diff), *(_span_json(entry) for entry in diff.spans)],
        "mutations": [_row_json(row) for row in diff.rows],
        "volatile": volatile_json(diff.volatile),
    }


def _request_json(diff: Diff) -> dict[str, Any]:
    entry = diff.request
    sides = [
        {
            "request_id": run.request_id,
            "kind": run.kind,
            "function": run.function,
            "outcome": run.outcome,
            "status_code": run.status_code,
            "duration_us": run.duration_us,
            "commit": run.commit,
            "values": _values(entry.leaves, which),
        }
        for run, which in ((diff.a, "a"), (diff.b, "b"))
    ]
    return {
        "path": entry.path, "change": entry.change, "a": sides[0], "b": sides[1],
        "delta_us": entry.delta_us,
    }  # fmt: skip


def _span_json(entry: SpanDiff) -> dict[str, Any]:
    pair = entry.pair
    assert pair is not None
    return {
        "path": entry.path,
        "change": entry.change,
        "a": _side_json(pair.a, entry.leaves, "a"),
        "b": _side_json(pair.b, entry.leaves, "b"),
        "delta_us": entry.delta_us,
    }


def _side_json(node: Node | None, found: list[Leaf], which: str) -> dict[str, Any] | None:
    if node is None:
        return None
    span = node.span
    return {
        "span_id": span.get("span_id"),
        "kind": span.get("kind"),
        "name": span.get("name"),
        "start_us": start_of(span),
        "duration_us": duration_of(span),
        "status": span.get("status") or "ok",
        "values": _values(found, which),
    }


def _values(found: list[Leaf], which: str) -> dict[str, Any]:
    """The values of one side that differ, by their place; what is not there is left out."""
    return {
        leaf.place: getattr(leaf, which) for leaf in found if getattr(leaf, which) is not MISSING
    }


def _row_json(row: RowDiff) -> dict[str, Any]:
    first = row.pair.a or row.pair.b
    assert first is not None
    sides = [
        None
        if side is None
        else {
            **{name: side[name] for name in ("seq", "span_id", "pk", "op", "outcome", "old", "new")
               if name in side},
            "values": _values(row.leaves, which),
        }
        for side, which in ((row.pair.a, "a"), (row.pair.b, "b"))
    ]  # fmt: skip
    return {
        "schema": first["schema"],
        "table": first["table"],
        "pk": first["pk"],
        "change": row.change,
        "a": sides[0],
        "b": sides[1],
    }


def volatile_json(explained: Sequence[Explained]) -> list[dict[str, Any]]:
    """What was set apart: each pair of values once, with every place where it stood."""
    grouped: dict[tuple[str, str, str], dict[str, Any]] = {}
    for one in explained:
        x, y = (None if value is MISSING else value for value in (one.a, one.b))
        entry = grouped.setdefault(
            (one.reason, to_json(x), to_json(y)),
            {"kind": one.reason, "a": x, "b": y, "places": []},
        )
        entry["places"].append(one.where)
    return list(grouped.values())


ReplayVerdict = Literal["same", "fixed", "regressed", "changed", "diverged", "interleaved"]
_OF_REPLAY: dict[Verdict, ReplayVerdict] = {
    "IDENTICAL": "same", "FIXED": "fixed", "REGRESSED": "regressed", "CHANGED": "changed",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a replay came to, and every difference behind that, as (where, recorded, now).

    Attributes:
        diff: The whole comparison; None if there was nothing to compare.
    """

    verdict: ReplayVerdict
    differences: list[tuple[str, Any, Any]]
    diff: Diff | None = None


def compare_runs(
    recorded: Run,
    replayed: Run,
    volatile: frozenset[str] = frozenset(),
    *,
    diverged: bool = False,
    interleaved: bool = False,
) -> Comparison:
    """Judge a replay against what was recorded.

    Args:
        recorded: The request.
        replayed: Its replay.
        volatile: Places known to differ (`learn`).
        diverged: Whether it asked for something that the record does not hold.
        interleaved: Whether the recorded run read what was committed while it ran, so that a
            difference is no fault of the code.
    """
    diff = compare(recorded, replayed, volatile)
    verdict = _OF_REPLAY[diff.verdict]
    if diverged:
        verdict = "diverged"
    elif interleaved and verdict in ("changed", "regressed"):
        verdict = "interleaved"
    return Comparison(verdict, differences(diff), diff)


def differences(diff: Diff) -> list[tuple[str, Any, Any]]:
    """Every difference that counts as (where, a, b); None stands for what is not there."""
    found: list[tuple[str, Any, Any]] = []
    for entry in diff.entries:
        if not counts(entry):
            continue
        if entry.leaves:
            found += [
                (f"{entry.path} > {leaf.place}", _shown(leaf.a), _shown(leaf.b))
                for leaf in entry.leaves
            ]
        else:
            told = {"only_a": ("there", None), "only_b": (None, "there")}
            found.append((entry.path, *told.get(entry.change, ("there", "elsewhere"))))
    for row in diff.rows:
        if row.change == "same":
            continue
        first = row.pair.a or row.pair.b
        assert first is not None
        name = f"{first['schema']}.{first['table']} {first['op']} {key_text(first['pk'])}".rstrip()
        found += [(f"{name} {x.place}", _shown(x.a), _shown(x.b)) for x in row.leaves] or [
            (name, row.pair.a, row.pair.b)
        ]
    return found


def _shown(value: Any) -> Any:
    return None if value is MISSING else value
