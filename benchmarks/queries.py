"""How long blame, history, trace, why and their parts take, and how that grows with the log.

    python -m benchmarks.queries [--mutations 20000,200000]
    python -m benchmarks.queries --mutations 100000,1000000,10000000

Each log is filled by generate_series as the triggers and the runtime would have filled it over
eight weeks: rows with ten changes each, and one hot row with a tenth of all changes; one request in
ten mutations, one in five of them failed, in fifty kinds. Each query is asked of other rows every
time, warm: the median CPU time of its Postgres process, which other load on the machine does not
change much, and in parentheses that of the clock.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from tabulate import tabulate

from flux_pg.database import embedded, roles
from flux_pg.database.embedded import SUPERUSER, EmbeddedServer

SERVER = {"fsync": "off", "shared_buffers": "512MB", "max_wal_size": "8GB"}
LIMIT_MS = 10.0
WEEKS = 8
PAGE = 50
CHANGES = 10
FIRST_XID = 10_000

TABLE = (
    "create table accounts (id bigint primary key, owner text, plan text, region text,"
    " status text, note text, balance bigint, credit bigint, visits bigint, created timestamptz)"
)
# What the triggers write for an INSERT, and for an UPDATE of visits (the ninth column).
LOG = """
insert into flux.mutation_log (seq, at, xid, mask, span_id, request_id, table_id, shape_id, op,
    key, session_name, old, new)
select i.seq, e.started_at, e.xid, i.mask, 7, e.request_id, t.table_id, t.shape_id, i.op,
    i.id::text, 'flux_app', i.old, i.new
from (
    select {seq} as seq, {mask} as mask, '{op}'::"char" as op, a.id, {old} as old, {new} as new
    from {source}
) as i
join bench_request as e on e.number = i.seq / 10
cross join flux.tracked_tables as t
"""
WHOLE = (
    "array[a.id::text, a.owner, a.plan, a.region, a.status, a.note, a.balance::text,"
    " a.credit::text, '0', '2026-01-01 00:00:00+00']"
)
REQUESTS = """
create unlogged table bench_request as
select i as number, w.at as started_at, ({first_xid} + i)::text::xid8 as xid, (
    lpad(to_hex((extract(epoch from w.at) * 1000)::bigint), 12, '0') || '7'
    || substr(md5(i::text), 1, 3) || '8' || substr(md5(i::text), 4, 15))::uuid as request_id,
    i % 5 = 3 as failed
from generate_series(0, {requests}) as i
cross join lateral (
    select now() - interval '1 hour' - ({requests} - i) * ({weeks} * interval '7 days'
        / {requests}) as at
) as w
"""
EXECUTIONS = """
insert into flux.execution_log (request_id, trace_id, root_span_id, kind, function, method, path,
    input, started_at, duration_us, state, outcome, status_code, response, error, runtime,
    snapshot, xids)
select r.request_id, r.request_id, 5, 'http', 'visit', 'POST', '/visit',
    json_build_object('id', r.number),
    r.started_at, 4000, 'completed', case when r.failed then 'error' else 'ok' end,
    case when r.failed then 500 else 200 end, '{{"ok": true}}',
    case when r.failed then json_build_object('type', 'ValueError', 'message', 'bad account '
        || r.number, 'fingerprint', md5(k.kind::text), 'stack', json_build_array(
            json_build_object('file', 'functions/visit.py', 'line', k.kind, 'function', 'visit')))
        end,
    'python', (r.xid::text || ':' || r.xid::text || ':')::pg_snapshot, array[r.xid]
from bench_request as r
cross join lateral (
    -- Half of the failures are of one kind.
    select case when r.number % 2 = 0 then 0 else r.number / 5 % 49 + 1 end as kind
) as k
"""
SPANS = """
insert into flux.span_packs (request_id, spans)
select r.request_id, ('[' || array_to_string(array[
    s.span || '"span_id": "0000000000000005", "kind": "gateway.request", "name": "POST /visit"}}',
    s.span || '"span_id": "0000000000000006", "parent_span_id": "0000000000000005",'
    '"kind": "function", "name": "visit", "input": {{"id": 1}}}}',
    s.span || '"span_id": "0000000000000007", "parent_span_id": "0000000000000006", "kind": "db",'
    '"name": "update accounts", "input": {{"sql": "update accounts set visits = visits + 1 where'
    ' id = $1", "params": [1]}}, "output": {{"rowcount": 1}}}}'], ',') || ']')::json
from bench_request as r
cross join lateral (select '{{"start_us": 10, "duration_us": 900, "status": "ok",' as span) as s
"""
PARTITIONS = """
select flux.make_partition(l.log, p.name, l.key, l.type, w.week)
from (
    values ('execution_log', 'request_id', 'uuid'), ('span_packs', 'request_id', 'uuid'),
        ('mutation_log', 'at', 'timestamptz'), ('attempted_log', 'at', 'timestamptz')
) as l (log, key, type)
cross join generate_series({weeks}, 0, -1) as n (ago)
cross join lateral (
    select date_trunc('week', now(), 'UTC') - n.ago * interval '7 days' as week
) as w
cross join lateral (
    select l.log || to_char(w.week at time zone 'UTC', '"_"IYYY"w"IW') as name
) as p
where to_regclass(format('flux.%I', p.name)) is null
"""
SNAPSHOTS = """
insert into flux.snapshots (at, snapshot)
select r.started_at, (r.xid::text || ':' || r.xid::text || ':')::pg_snapshot
from bench_request as r
where r.number % 10 = 0
"""


@dataclass(frozen=True)
class Log:
    """A filled log. `rows` are numbered from 1; 0 is the hot one."""

    conn: psycopg.Connection[Any]
    mutations: int
    rows: int
    hot_changes: int

    def request(self, dice: random.Random, *, failed: bool) -> str:
        """A random request of the newest tenth."""
        number = dice.randrange(self.mutations * 9 // 100, self.mutations // 10 - 1)
        number += (3 - number) % 5 if failed else (1 - number) % 5
        return str(self.value("select request_id from bench_request where number = %s", number))

    def value(self, query: str, *params: object) -> Any:
        row = self.conn.execute(query.encode(), params or None).fetchone()
        assert row is not None
        return row[0]


Ask = Callable[[Log, random.Random], tuple[str, Sequence[object]]]


def _row(query: str, *, hot: bool = False) -> Ask:
    return lambda log, dice: (query, ["0" if hot else str(dice.randint(1, log.rows))])


def _request(query: str, *, failed: bool = False) -> Ask:
    return lambda log, dice: (query, [log.request(dice, failed=failed)])


def _read(*, hot: bool) -> Ask:
    def ask(log: Log, dice: random.Random) -> tuple[str, Sequence[object]]:
        key = 0 if hot else dice.randint(1, log.rows)
        table = log.value("select table_id from flux.tracked_tables")
        reads = [{"table_id": table, "key": {"id": key}, "values": {"owner": f"owner {key}"}}]
        request = log.request(dice, failed=True)
        return "select flux.seen_versions(%s, %s)", [request, json.dumps(reads)]

    return ask


def _row_at(*, hot: bool) -> Ask:
    """The hot row as it was a hundred of its changes ago, others at half of the log."""

    def ask(log: Log, dice: random.Random) -> tuple[str, Sequence[object]]:
        requests = log.mutations // CHANGES
        number = (requests - 100 if hot else requests // 2) - dice.randrange(50)
        at = log.value("select started_at from bench_request where number = %s", number)
        key = "0" if hot else str(dice.randint(1, log.rows))
        return "select flux.row_at('accounts', %s, %s)", [key, at]

    return ask


QUERIES: dict[str, Ask] = {
    "blame": _row("select * from flux.blame('accounts', %s)"),
    "blame, hot row": _row("select * from flux.blame('accounts', %s)", hot=True),
    "history": _row("select * from flux.history('accounts', %s)"),
    "history, hot row, newest 50": _row(
        f"select * from flux.history('accounts', %s, p_limit => {PAGE})", hot=True
    ),
    "trace": _request("select flux.trace(%s::uuid)"),
    "why, of a success": _request("select flux.why(%s::uuid)"),
    "why, of a failure": _request("select flux.why(%s::uuid)", failed=True),
    "why: similar": _request("select * from flux.similar(%s::uuid, 6)", failed=True),
    "why: versions seen": _read(hot=False),
    "why: versions seen, hot row": _read(hot=True),
    "row at a time": _row_at(hot=False),
    "row at a time, hot row": _row_at(hot=True),
}


def main() -> int:
    """Fill logs of each size, ask, print the table."""
    options = _options()
    with (
        tempfile.TemporaryDirectory(prefix="flux-bench-queries-") as name,
        EmbeddedServer(Path(name) / "server", settings=SERVER) as server,
    ):
        columns = [_measure(server, size, options) for size in options.mutations]
    rows = [
        [query, *(column[query] for column in columns)]
        for query in columns[0]
        if all(query in column for column in columns)
    ]
    headers = ["milliseconds", *(f"{size:,} mutations" for size in options.mutations)]
    print(tabulate(rows, headers=headers, disable_numparse=True), end="\n\n")
    print(f"What is wanted: under {LIMIT_MS:g} ms in Postgres, flat as the log grows.")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queries")
    parser.add_argument(
        "--mutations",
        type=lambda text: [int(one) for one in text.split(",")],
        default=[20_000, 200_000],
    )
    parser.add_argument("--times", type=int, default=15, help="each query is asked")
    parser.add_argument("--only", default="", help="queries with this in their name")
    return parser.parse_args()


def _measure(server: EmbeddedServer, size: int, options: argparse.Namespace) -> dict[str, str]:
    dbname = f"log_{size}"
    embedded.prepare(server, dbname)
    with psycopg.connect(server.dsn(SUPERUSER, dbname), autocommit=True) as conn:
        began = time.perf_counter()
        rows, hot = _fill(conn, server, dbname, size)
        print(f"{size:,} mutations filled in {time.perf_counter() - began:.0f} s", flush=True)
    found = {}
    with psycopg.connect(server.dsn(SUPERUSER, dbname), autocommit=True) as conn:
        log = Log(conn, size, rows, hot)
        for name, ask in QUERIES.items():
            if options.only in name:
                found[name] = _time(log, ask, options.times)
    return found


def _time(log: Log, ask: Ask, times: int) -> str:
    """Medians: milliseconds of CPU of the session's process, and of the clock."""
    dice = random.Random(1)
    pid = int(log.value("select pg_backend_pid()"))
    cpu, clock = [], []
    # The first two are for the plans that a session keeps.
    for _ in range(times + 2):
        query, params = ask(log, dice)
        before, began = _cpu_ms(pid), time.perf_counter()
        log.conn.execute(query.encode(), params).fetchall()
        clock.append((time.perf_counter() - began) * 1000)
        cpu.append(_cpu_ms(pid) - before)
    return f"{statistics.median(cpu[2:]):.1f} ({statistics.median(clock[2:]):.1f})"


def _cpu_ms(pid: int) -> float:
    """What a process has had of the CPUs (Linux)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def _fill(
    conn: psycopg.Connection[Any], server: EmbeddedServer, dbname: str, size: int
) -> tuple[int, int]:
    """Fill the log as it would be; the live rows are there without a change of their own."""
    hot = size // CHANGES
    rows = (size - hot) // CHANGES
    with psycopg.connect(server.dsn(roles.ADMIN, dbname), autocommit=True) as owner:
        owner.execute("select flux.apply_settings('{}', '{}')")
        owner.execute(TABLE.encode())
        owner.execute(
            "insert into accounts select i, 'owner ' || i, 'free', 'eu', 'open',"
            " repeat('note ', 6), i, 0, case i when 0 then %s else %s end, '2026-01-01 00:00:00+00'"
            " from generate_series(0, %s) as i",
            (hot - 1, CHANGES - 1, rows),
        )
        owner.execute("select flux.track('accounts')")
    _make_partitions(conn)
    conn.execute(REQUESTS.format(first_xid=FIRST_XID, requests=size // 10, weeks=WEEKS).encode())
    conn.execute("create index on bench_request (number)")
    conn.execute("analyze bench_request")
    # Every tenth change is one of the hot row; the others take turns.
    seq = f"1 + (c.number * {rows} + a.id - 1) * 10 / 9"
    turns = f"accounts as a cross join generate_series(0, {CHANGES - 1}) as c (number)"
    hots = f"accounts as a cross join generate_series(0, {hot - 1}) as c (number)"
    for source, place in (
        (f"{turns} where a.id > 0 and c.number {{}}", seq),
        (f"{hots} where a.id = 0 and c.number {{}}", "c.number * 10 + 9"),
    ):
        insert = {"op": "I", "mask": -1, "old": "null::text[]", "new": WHOLE}
        update = {
            "op": "U",
            "mask": 1 << 8,
            "old": "array[(c.number - 1)::text]",
            "new": "array[c.number::text]",
        }
        for which, values in (("= 0", insert), ("> 0", update)):
            query = LOG.format(seq=place, source=source.format(which), **values)
            conn.execute(query.encode())
    conn.execute(EXECUTIONS.format().encode())
    conn.execute(SPANS.format().encode())
    conn.execute(SNAPSHOTS.encode())
    conn.execute("select setval('flux.mutation_seq', (select max(seq) from flux.mutation_log))")
    conn.execute("create extension if not exists vector")
    conn.execute("select flux.sign_failures(1000)")
    conn.execute("vacuum (analyze)")
    conn.execute("checkpoint")
    return rows, hot


def _make_partitions(conn: psycopg.Connection[Any]) -> None:
    """Those of the past weeks, as they would have been made then."""
    conn.execute(PARTITIONS.format(weeks=WEEKS + 1).encode())


if __name__ == "__main__":
    raise SystemExit(main())
