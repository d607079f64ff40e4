"""An image restores its value exactly, for every type and under any settings of the writer."""

from __future__ import annotations

import random

import psycopg
import pytest
from psycopg import sql

from tests.sql.log import Log

# Settings under which text output loses or changes something, unless the recorder pins its own.
HOSTILE = (
    "set datestyle = 'German, DMY'",
    "set timezone = 'America/St_Johns'",
    "set intervalstyle = 'sql_standard'",
    "set bytea_output = 'escape'",
    "set extra_float_digits = -15",
    "set search_path = pg_temp",
)

SAMPLES: dict[str, list[str]] = {
    "smallint": ["-32768", "32767", "0"],
    "integer": ["-2147483648", "7"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "numeric": ["1.10", "1.1", "NaN", "Infinity", "-0.000", "1e130", "0.1234567890123456789"],
    "numeric(12,4)": ["1.5", "99999999.9999"],
    "real": ["0.1", "-0", "NaN", "Infinity", "1e-45", "16777217"],
    "double precision": ["0.1", "-0", "NaN", "-Infinity", "5e-324", "0.30000000000000004"],
    "money": ["-1234.56", "0.01"],
    "text": ["", " ", "a\nb\t\\ \" ' {},() NULL null", "žluť 🐘", "redacted:00"],
    "varchar(5)": ["ab ", "", "ěšč"],
    "char(5)": ["a", "ab ", "", "     "],
    '"char"': ["x", ""],
    "name": ["n", ""],
    "bytea": ["\\x", "\\x00ff5c27", "\\x" + "ab" * 300],
    "boolean": ["t", "f"],
    "date": ["0044-03-15 BC", "infinity", "-infinity", "2024-02-29", "294276-12-31"],
    "time": ["24:00:00", "00:00:00.000001"],
    "time with time zone": ["12:00:00+05:30", "24:00:00-12:34:56"],
    "timestamp": ["0044-03-15 01:02:03.4 BC", "infinity", "2024-12-31 23:59:60"],
    "timestamp with time zone": [
        "1890-01-01 00:00:00.000001+00",
        "2024-10-27 00:30:00+00",
        "infinity",
    ],
    "interval": [
        "1 mon",
        "30 days",
        "-1 mon +2 days -03:00:00.5",
        "24:00:00",
        "1 day",
        "P1Y2M3DT4H5M6.7S",
    ],
    "uuid": ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"],
    "json": ['{"b":  1, "a": 2, "a": 3}', "null", '"x"', " [ ] "],
    "jsonb": ['{"b": 1.10, "a": null}', "null", "1e5", '"\\u00e9"'],
    "xml": ["<a>1</a>", "text <b/>"],
    "inet": ["192.168.0.1/24", "::1"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:ff:fe:01:02:03"],
    "bit(5)": ["10110"],
    "bit varying": ["", "101"],
    "point": ["(0.1,-0)", "(NaN,Infinity)"],
    "line": ["{1,2,3.0000000000000004}"],
    "lseg": ["[(0,0),(1,0.1)]"],
    "box": ["(1,1),(0,0)"],
    "path": ["[(0,0),(1,1)]", "((0,0),(1,1))"],
    "polygon": ["((0,0),(1,1),(1,0))"],
    "circle": ["<(0,0),1e-7>"],
    "tsvector": ["'a':1A 'it''s':2", ""],
    "tsquery": ["'a' & !'b'", "'a' <-> 'b'"],
    "int4range": ["empty", "[1,5)", "(,)"],
    "numrange": ["[1.0,2.00]", "(,1)"],
    "tstzrange": ['["2024-01-01 00:00:00+00",infinity)'],
    "int4multirange": ["{}", "{[1,3),[5,)}"],
    "pg_lsn": ["16/B374D848"],
    "xid8": ["18446744073709551615"],
    "oid": ["4294967295"],
    "regclass": ["pg_class"],
    "tid": ["(1,2)"],
    "int[]": ["{}", "{1,NULL,3}", "[0:1]={5,6}", "{{1,2},{3,4}}"],
    "text[]": ['{"a,b","c\\"d","NULL",NULL,""}'],
    "numeric[]": ["{1.0,1.00}"],
    "timestamptz[]": ['{"2024-01-01 00:00:00+00"}'],
    "box[]": ["{(1,1),(0,0);(2,2),(1,1)}"],
    "mood": ["sad", "it's, {ok}"],
    "mood[]": ["{sad,NULL}"],
    "posint": ["7"],
    "label": ["a  "],
    "words": ["{x,y}"],
    "pair": ['(1,"x, y")', "(,)", '(2,"")', '(3,"a ""q"" \\\\")'],
    "pair[]": ['{"(1,a)",NULL}'],
    "nest": ['("(1,a)",{1.50},2024-01-01)'],
    "pairdom": ["(1,x)"],
    "floatrange": ["[0.1,0.30000000000000004)"],
    "citext": ["AbC"],
    "hstore": ['"a"=>NULL, "b"=>"x,y"'],
}

TYPES = """
create type mood as enum ('sad', 'it''s, {ok}');
create domain posint as int check (value > 0);
create domain label as char(4);
create domain words as text[];
create type pair as (n int, "t x" text);
create type nest as (p pair, n numeric[], d date);
create domain pairdom as pair;
create type floatrange as range (subtype = float8);
"""


def prepare(log: Log) -> dict[str, list[str]]:
    """Make the types; leaves out what this server's builds lack."""
    log.run(*TYPES.strip().split("\n"))
    samples = dict(SAMPLES)
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        for extension in ("citext", "hstore"):
            try:
                conn.execute(f"create extension {extension}".encode())
            except psycopg.Error:
                del samples[extension]
        try:
            conn.execute("select '<a/>'::xml")
        except psycopg.errors.FeatureNotSupported:
            del samples["xml"]
    return samples


def test_every_type_is_restored_exactly(log: Log) -> None:
    samples = prepare(log)
    wrong = []
    for number, (name, values) in enumerate(samples.items()):
        table = f"t{number}"
        log.run(f"create table public.{table} (id int primary key, v {name}, w {name})")
        log.conn.execute("begin")
        query = sql.SQL("insert into public.{} values (%s, {}, null)")
        for place, value in enumerate(values):
            log.conn.execute(
                query.format(sql.Identifier(table), sql.Literal(value) + sql.SQL(f"::{name}")),
                [place],
            )
        log.run(*HOSTILE, f"update public.{table} set w = v, v = null")
        log.run(
            f"update public.{table} set v = w", f"delete from public.{table}", "commit", "reset all"
        )
        wrong += check(log, table, name, values)
    assert not wrong


def check(log: Log, table: str, name: str, values: list[str]) -> list[str]:
    """Compare what the log can restore with the values that were put in, by their bytes."""
    wrong = []
    with psycopg.connect(log.database.superuser) as conn:
        conn.execute("set timezone = 'Asia/Kathmandu'")
        rows = conn.execute(
            "select m.op::text, m.key, m.old, m.new from flux.mutation_log as m"
            " join flux.tracked_tables as t using (table_id) where t.table_name = %s order by seq",
            [table],
        ).fetchall()
        assert len(rows) == 4 * len(values)
        for op, key, old, new in rows:
            # The first UPDATE writes (null, value), the second the value alone.
            stored = old[1] if op == "D" else new[-1]
            if op == "I":
                stored = new[1]
            same = conn.execute(
                sql.SQL("select record_image_eq(row({}::{t}), row({}::{t}))").format(
                    sql.Literal(stored), sql.Literal(values[int(key)]), t=sql.SQL(name)
                )
            ).fetchone()
            if same != (True,):
                wrong.append(f"{name} {values[int(key)]!r}: {op} stored {stored!r}")
    return wrong


def test_typed_json_is_what_to_jsonb_gives(log: Log) -> None:
    samples = prepare(log)
    differ = {}
    for number, (name, values) in enumerate(samples.items()):
        table = f"t{number}"
        log.run("reset all", "set timezone = 'UTC'")
        log.run(f"create table {table} (id int primary key, v {name})")
        for place, value in enumerate(values):
            query = sql.SQL("insert into {} values (%s, {})")
            log.conn.execute(
                query.format(sql.Identifier(table), sql.Literal(value) + sql.SQL(f"::{name}")),
                [place],
            )
        for row in log.rows(
            "select m.new -> 'v' as seen, to_jsonb(t.v) as plain from flux.mutations as m"
            f" join {table} as t on t.id = (m.pk ->> 'id')::int where m.\"table\" = %s",
            [table],
        ):
            if row["seen"] != row["plain"]:
                differ[name] = (row["seen"], row["plain"])
    # hstore has a cast to json of its own; the rest shows what to_jsonb shows.
    differ.pop("hstore", None)
    differ.pop("box[]", None)
    assert differ == {}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_values_round_trip(log18: Log, seed: int) -> None:
    dice = random.Random(seed)
    log18.run("create table t (id int primary key, s text, f float8, b bytea, a text[], n numeric)")
    rows = []
    for key in range(60):
        text = "".join(
            chr(dice.choice([9, 10, 34, 39, 44, 92, 123, 233, 0x1F418, 65])) for _ in range(9)
        )
        rows.append(
            (
                key,
                text,
                dice.uniform(-1, 1) * 10.0 ** dice.randint(-300, 300),
                dice.randbytes(dice.randint(0, 40)),
                [text, None, "", "NULL"],
                f"{dice.randint(-(10**20), 10**20)}e{dice.randint(-20, 20)}",
            )
        )
    with log18.conn.cursor() as cursor:
        cursor.executemany("insert into t values (%s, %s, %s, %s, %s, %s::numeric)", rows)
    log18.run("create table copy (like t)")
    log18.run("delete from t")
    with psycopg.connect(log18.database.superuser) as conn:
        stored = conn.execute(
            "select old from flux.mutation_log where op = 'D' order by seq"
        ).fetchall()
        for (old,) in stored:
            conn.execute(
                "insert into copy values"
                " (%s::int, %s, %s::float8, %s::bytea, %s::text[], %s::numeric)",
                old,
            )
        for key, text, number, data, array, decimal in rows:
            found = conn.execute(
                "select s = %s and record_image_eq(row(f), row(%s::float8)) and b = %s"
                " and a = %s::text[] and n = %s::numeric from copy where id = %s",
                [text, number, data, array, decimal, key],
            ).fetchone()
            assert found == (True,), key
