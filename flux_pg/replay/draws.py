"""The values that a recorded request drew from sequences, given to its replay again.

Requests of an incident refer to each other's rows by key (`GET /orders/17`), so a replay must draw
what was drawn then, also where others drew in between. While a request runs, each sequence stands
before the value that it drew next; what it draws beyond its record, and what others draw that drew
nothing then, comes from behind every recorded value.

Laws:
- setval is bound to no transaction, so a connection of its own does it.
- Sequences stand for one run at a time, and behind everything recorded for all others. Where the
  run that comes next is known they go on to it at once: one round trip for two.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import psycopg

from flux_pg.database.pipeline import Statement

Send = Callable[[Sequence[Statement]], Awaitable[object]]
_MAY_INSERT = re.compile(r"\b(insert|merge|copy|call)\b", re.IGNORECASE)

# Only in scratch databases, where whoever may log in may move a sequence.
STAND_FUNCTION = """
create function flux.stand_sequences(p_draws jsonb, p_when text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_draw record;
    v_last bigint;
    v_called boolean;
    v_beyond bigint;
    v_next bigint;
    v_taken boolean;
begin
    for v_draw in
        select to_regclass(x.sequence) as sequence, to_regclass(x.relation) as relation,
            x."column", x."values", x.beyond
        from jsonb_to_recordset(p_draws)
            as x (sequence text, relation text, "column" name, "values" bigint[], beyond bigint)
    loop
        continue when v_draw.sequence is null or v_draw.relation is null;
        v_next := null;
        v_last := null;
        if p_when = 'first' then
            v_next := v_draw."values"[1];
        elsif p_when = 'next' then
            execute format('select last_value, is_called from %s', v_draw.sequence)
                into v_last, v_called;
            continue when not v_called and v_last = any (v_draw."values");
            -- After the last recorded value, and after any that was not, none is left.
            v_next := v_draw."values"[array_position(v_draw."values", v_last) + 1];
        end if;
        if v_next is not null then
            execute format('select exists (select from %s where %I = $1)', v_draw.relation,
                v_draw."column") into v_taken using v_next;
            if not v_taken then
                perform setval(v_draw.sequence, v_next, false);
                continue;
            end if;
        end if;
        execute format('select max(%I) from %s', v_draw."column", v_draw.relation) into v_beyond;
        v_beyond := greatest(v_beyond, v_draw.beyond);
        continue when v_last >= v_beyond;
        perform setval(v_draw.sequence, v_beyond, true);
    end loop;
end
$$;
"""
_STAND = "select flux.stand_sequences(%s, %s)"

_SEQUENCES = """
select format('%I.%I', n.nspname, c.relname) as sequence, tn.nspname as schema, t.relname as name,
    format('%I.%I', tn.nspname, t.relname) as relation, a.attname as "column",
    coalesce(p.last_value, s.seqstart) as beyond
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
join pg_sequence as s on s.seqrelid = c.oid and s.seqincrement = 1
left join pg_sequences as p on p.schemaname = n.nspname and p.sequencename = c.relname
cross join lateral (
    select d.refobjid as relation, d.refobjsubid as number
    from pg_depend as d
    where d.classid = 'pg_class'::regclass and d.objid = c.oid
        and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0 and d.deptype in ('a', 'i')
    union
    select f.adrelid, f.adnum
    from pg_depend as d
    join pg_attrdef as f on f.oid = d.objid
    where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass
        and d.refobjid = c.oid
) as u
join pg_class as t on t.oid = u.relation and not t.relispartition
join pg_namespace as tn on tn.oid = t.relnamespace
join pg_attribute as a on a.attrelid = u.relation and a.attnum = u.number
where n.nspname not in ('flux', 'information_schema') and n.nspname !~ '^pg_'
"""


class Draw(msgspec.Struct, kw_only=True):
    """What a request drew from one sequence, in order.

    Attributes:
        sequence: Its name, quoted.
        relation: The table that it filled, quoted.
        column: The column there.
        values: The values.
        beyond: A value that nothing recorded lies behind.
    """

    sequence: str
    relation: str
    column: str
    values: list[int]
    beyond: int


class Sequences:
    """The sequences of the live database that fill columns. Read once, blocking."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._by_table: dict[tuple[str, str], list[Draw]] = {}
        with conn.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
            for sequence, schema, table, relation, column, beyond in cursor.execute(_SEQUENCES):
                draw = Draw(
                    sequence=sequence, relation=relation, column=column, values=[], beyond=beyond
                )  # fmt: skip
                self._by_table.setdefault((schema, table), []).append(draw)

    def put_beyond(self, scratch: psycopg.Connection[Any]) -> None:
        """Let every sequence of a scratch database go on behind all recorded values; blocks.

        Args:
            scratch: As a superuser.
        """
        draws = [one for found in self._by_table.values() for one in found]
        text = msgspec.json.encode(draws).decode()
        scratch.execute(_STAND.encode(), (text, "last"))

    def drawn(self, changes: Iterable[Mapping[str, Any]]) -> list[Draw]:
        """What row changes, as in `flux.trace/1`, say was drawn, the rolled-back ones included."""
        found: dict[str, Draw] = {}
        for change in changes:
            if change["op"] != "INSERT":
                continue
            for one in self._by_table.get((change["schema"], change["table"]), ()):
                value = (change["new"] or {}).get(one.column)
                if isinstance(value, int) and value <= one.beyond:
                    known = found.setdefault(one.sequence, msgspec.structs.replace(one, values=[]))
                    known.values.append(value)
        return list(found.values())


class Standing:
    """Where the sequences of a scratch database stand, as far as one process moves them."""

    def __init__(self) -> None:
        self._for: list[Draw] = []
        self._is_ahead = False

    def begin(self, draws: Sequence[Draw]) -> list[Statement]:
        """What puts sequences where a run needs them that begins now; nothing if they are there."""
        is_there, self._is_ahead = self._is_ahead and self._for == list(draws), False
        return [] if is_there else self._go(draws)

    def end(self, following: Sequence[Draw]) -> list[Statement]:
        """What puts them where the next run needs them, or else behind all recorded values."""
        self._is_ahead = True
        return self._go(following)

    def _go(self, draws: Sequence[Draw]) -> list[Statement]:
        left, self._for = self._for, list(draws)
        named = {one.sequence for one in draws}
        moves = [("last", [one for one in left if one.sequence not in named]), ("first", draws)]
        return [_stand(found, when) for when, found in moves if found]


class Drawing:
    """The draws of one run while it goes on; `send` runs a statement."""

    def __init__(self, draws: Sequence[Draw], send: Send) -> None:
        self._draws = draws
        self._send = send
        self._inserts = 0
        # Alone, and one after the other, they come by themselves.
        self._gapless = min(
            (len(one.values) for one in draws if one.values == _consecutive(one)), default=0
        )
        self._has_gaps = any(one.values != _consecutive(one) for one in draws)

    async def before(self, sql: str) -> None:
        """Before each statement."""
        if not self._draws or not _MAY_INSERT.search(sql):
            return
        if self._inserts and (self._has_gaps or self._inserts >= self._gapless):
            await self._send([_stand(self._draws, "next")])
        self._inserts += 1


def _stand(draws: Sequence[Draw], when: str) -> Statement:
    return Statement(_STAND, (msgspec.json.encode(draws).decode(), when))


def _consecutive(draw: Draw) -> list[int]:
    return list(range(draw.values[0], draw.values[0] + len(draw.values)))
