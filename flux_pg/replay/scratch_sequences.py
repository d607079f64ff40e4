"""Where the sequences of a scratch database stand: where they stood then, as far as is recorded."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from flux_pg.replay.scratch_source import Source, SourceSequence


def set_sequences(
    live: psycopg.Connection[Any],
    admin: psycopg.Connection[Any],
    source: Source,
    snapshot: str,
    request_id: str | None,
) -> None:
    """Set each sequence so that it gives what it gave then, as far as the record knows."""
    for sequence in source.sequences:
        drawn = [
            value for at in sequence.columns for value in _drawn(live, at, snapshot, request_id)
        ]
        value = next_value(sequence, drawn, _greatest(admin, sequence))
        admin.execute(
            "select setval(%s::regclass, %s, %s) where to_regclass(%s) is not null",
            (sequence.quoted, *value, sequence.quoted),
        )


def next_value(
    sequence: SourceSequence, drawn: list[tuple[int, bool]], greatest: int | None
) -> tuple[int, bool]:
    """What to give setval: a value, and whether it was given out already.

    A value counts as drawn if the sequence has come past it and the snapshot's rows have not:
    others were written by hand.

    Args:
        drawn: Values of INSERTs that the snapshot does not see, with whether they are the
            request's own, which win: another's may have been drawn earlier and written later.
        greatest: The furthest value among the rows that the sequence has come past.
    """
    last = sequence.last_value
    if last is None:
        return sequence.start, False
    sign = 1 if sequence.increment > 0 else -1
    fitting = [
        (not own, value * sign)
        for value, own in drawn
        if value * sign <= last * sign and (greatest is None or value * sign > greatest * sign)
    ]
    if not fitting:
        return last, True
    return min(fitting)[1] * sign, False


def _drawn(
    live: psycopg.Connection[Any], at: tuple[str, str], snapshot: str, request_id: str | None
) -> list[tuple[int, bool]]:
    try:
        with live.transaction():
            rows = live.execute(
                "select v.value, bool_or(v.is_own) from flux.values_drawn_since(%s, %s, %s, %s)"
                " as v where v.value ~ '^-?[0-9]{1,18}$' group by v.value",
                (*at, snapshot, request_id),
            ).fetchall()
    except psycopg.Error as error:
        if (error.sqlstate or "")[:2] != "ZF":
            raise
        return []  # not tracked: the table is refused
    return [(int(value), own) for value, own in rows]


def _greatest(admin: psycopg.Connection[Any], sequence: SourceSequence) -> int | None:
    """The furthest value in the rows that the sequence has come past."""
    found: list[int] = []
    ends, within = ("max", "<=") if sequence.increment > 0 else ("min", ">=")
    for table, column in sequence.columns:
        try:
            row = admin.execute(
                sql.SQL("select {}({})::bigint from {} where {} {} {}").format(
                    sql.SQL(ends), sql.Identifier(column),
                    sql.SQL(table), sql.Identifier(column),
                    sql.SQL(within), sql.Literal(sequence.last_value),
                )
            ).fetchone()  # fmt: skip
        except psycopg.Error:
            continue  # refused, or not a number, or called otherwise then
        if row is not None and row[0] is not None:
            found.append(row[0])
    if not found:
        return None
    return max(found) if sequence.increment > 0 else min(found)
