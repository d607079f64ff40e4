"""Writes docs/record.md, docs/configuration.md and docs/explain-limits.md from what they describe.

    python docs/generate.py        # or: make docs

The record's page comes from the comments of the database, on a fresh Postgres with schema flux; the
settings' page from `flux_pg.config.OPTIONS`, the limits' from `flux_pg.explain.limits`. A test
fails while a page is not what this writes.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import psycopg

from flux_pg.config import OPTIONS, Option, Settings
from flux_pg.explain.limits import GROUPS

DOCS = Path(__file__).parent

READ_FIRST = ("executions", "spans", "mutations")
"""What people look for first; the others follow by name."""

FOR_PEOPLE = (
    "trace", "why", "similar", "sign_failures", "diff", "history", "blame", "state_at", "row_at",
    "verify", "track", "untrack", "track_missing",
    "enqueue", "enqueue_many", "retry_job", "cancel_job", "queue_stats", "schedule",
    "unschedule", "pause_schedule", "resume_schedule", "run_schedule", "prune", "begin_request",
    "claim", "claims", "try_claims", "span_hex", "uuid_floor",
)  # fmt: skip
"""Functions that are a contract; every other one is internal and may change."""

_RELATIONS = """
select c.oid, c.relname::text as name, c.relkind = 'v' as is_view,
    obj_description(c.oid, 'pg_class') as comment
from pg_class as c
where c.relnamespace = 'flux'::regnamespace and c.relkind in ('r', 'p', 'v')
    and has_table_privilege('flux_reader', c.oid, 'select')
order by c.relname
"""
_COLUMNS = """
select a.attname::text as name, format_type(a.atttypid, a.atttypmod) as type,
    col_description(a.attrelid, a.attnum) as comment
from pg_attribute as a
where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""
_FUNCTIONS = """
select p.proname::text as name, pg_get_function_arguments(p.oid) as arguments,
    pg_get_function_result(p.oid) as result, obj_description(p.oid, 'pg_proc') as comment,
    has_function_privilege('flux_reader', p.oid, 'execute') as for_readers,
    exists (
        select from aclexplode(p.proacl) as a where a.grantee = 0 and a.privilege_type = 'EXECUTE'
    ) as for_all
from pg_proc as p
where p.pronamespace = 'flux'::regnamespace and p.proname = any (%s)
order by array_position(%s, p.proname::text), p.oid
"""
_SETTINGS = "select name, description from flux.settings order by name"
_REDACTIONS = """
select description, array_agg(pattern order by pattern) as patterns
from flux.redactions where is_default group by description order by description
"""

_RECORD_HEAD = """\
# The record: tables, views and functions

<!-- Written by docs/generate.py from the comments in the database; do not edit. -->

Everything Flux keeps is in schema `flux` of your database. The names on this page are a contract:
they stay, whatever the storage behind them becomes. Whatever is in the schema and not on this page
is internal. `\\d+ flux.executions` in psql shows the same comments.

How to use them: [Flux from psql](psql.md). What is guaranteed: [recording](recording.md).

Rights: grant `flux_reader` to whoever may read the record (`grant flux_reader to ann`). The runtime
has `flux_runtime`; it can write records through functions and nothing else. Everything belongs to
`flux_owner`, which nobody logs in as.
"""

_CONFIGURATION_HEAD = """\
# Configuration

<!-- Written by docs/generate.py from flux_pg/config.py; do not edit. -->

`flux dev` needs no configuration. Every setting can be given in four places; the first that has it
wins:

1. a flag (`flux dev --port 4001`)
2. an environment variable (`FLUX_PORT=4001`)
3. `.env` in the project's folder, in the same form as the environment
4. `flux.toml` in the project's folder

`flux config` shows every setting, its value and the place it came from. A value that cannot be used
stops the command with the file and line that holds it.

The PG* variables of libpq count as `DATABASE_URL` if one of `PGHOST`, `PGHOSTADDR`, `PGSERVICE`
or `PGDATABASE` is set. With no database named at all, Flux starts one of its own under `.flux/`.

Sizes are bytes, or a text such as `"10MiB"`. Times are seconds, or a text such as `"30s"`, `"5m"`.
Lists in an environment variable are separated by commas.
"""


def record_page(conn: psycopg.Connection[Any]) -> str:
    """docs/record.md as it has to be for a database with schema flux."""
    conn.row_factory = psycopg.rows.dict_row
    parts = [_RECORD_HEAD]
    relations = conn.execute(_RELATIONS).fetchall()
    relations.sort(key=lambda row: (_place(row["name"]), row["name"]))
    for row in relations:
        kind = "view" if row["is_view"] else "table"
        columns = conn.execute(_COLUMNS, (row["oid"],)).fetchall()
        parts += [
            f"## {kind} `flux.{row['name']}`\n",
            f"{row['comment']}\n",
            _table(
                ("column", "type", ""),
                [(f"`{c['name']}`", _short(c["type"]), c["comment"]) for c in columns],
            ),
        ]
    names = list(FOR_PEOPLE)
    parts.append("## Functions\n")
    for row in conn.execute(_FUNCTIONS, (names, names)).fetchall():
        parts += [
            f"### `flux.{row['name']}`\n",
            f"```text\n{_signature(row)}\n```\n",
            f"{row['comment']} {_callers(row)}\n",
        ]
    parts += [
        "## Settings of the schema\n",
        "Rows of `flux.settings`, which only `flux_owner` reads and writes.\n",
        _table(
            ("name", ""), [(f"`{r['name']}`", r["description"]) for r in conn.execute(_SETTINGS)]
        ),
        "## Names that are redacted\n",
        "Rows of `flux.redactions`: LIKE patterns over the name in lower case. "
        "`recording.redact` in flux.toml adds more.\n",
        _table(
            ("for", "patterns"),
            [
                (r["description"], ", ".join(f"`{p}`" for p in r["patterns"]))
                for r in conn.execute(_REDACTIONS)
            ],
        ),
    ]
    return "\n".join(parts)


def configuration_page() -> str:
    """docs/configuration.md as it has to be."""
    defaults = {entry.name: entry.default for entry in fields(Settings)}
    parts = [_CONFIGURATION_HEAD]
    sections = dict.fromkeys(option.toml.split(".")[0] for option in OPTIONS)
    for section in sections:
        rows = [
            (
                f"`{option.toml.split('.', 1)[1]}`",
                f"`{option.variable}`",
                _default(option, defaults[option.name]),
                option.help,
            )
            for option in OPTIONS
            if option.toml.startswith(f"{section}.")
        ]
        parts += [
            f"## [{section}]\n",
            _table(("in flux.toml", "variable", "default", ""), rows),
        ]
    return "\n".join(parts)


def _place(name: str) -> int:
    return READ_FIRST.index(name) if name in READ_FIRST else len(READ_FIRST)


def _literal(value: str) -> str:
    """A default value: NULL and FALSE in small letters, a text as it is."""
    return value if value.startswith("'") else value.lower()


def _signature(row: dict[str, Any]) -> str:
    """A function's head, an argument and a result column a line if there are several."""
    arguments = _short(row["arguments"]).split(", ")
    result = _short(row["result"])
    if result.startswith("TABLE("):
        inner = result.removeprefix("TABLE(").removesuffix(")")
        result = _listed("table", inner.split(", "))
    return f"{_listed('flux.' + row['name'], arguments)} returns {result}"


def _listed(name: str, items: list[str]) -> str:
    one_line = f"{name}({', '.join(items)})"
    if len(one_line) < 70:
        return one_line
    return f"{name}(\n    " + ",\n    ".join(items) + "\n)"


def _short(text: str) -> str:
    text = re.sub(
        r" DEFAULT ('[^']*'|\w+)(?:::[a-z ]+)?", lambda m: " default " + _literal(m[1]), text
    )
    return text.replace("timestamp with time zone", "timestamptz")


def _callers(row: dict[str, Any]) -> str:
    if row["for_all"]:
        return "For everybody; the function itself asks for the right it needs."
    return "For `flux_reader`." if row["for_readers"] else "For `flux_runtime`."


_SPECIAL = {"project_name": "name of the folder", "database_url": "the embedded Postgres",
            "admin_url": "`database.url`", "listen_url": "`database.url`",
            "max_rows": "no limit", "max_cost": "no limit",
            "retention_s": "kept for ever"}  # fmt: skip


def _default(option: Option, value: Any) -> str:
    if option.name in _SPECIAL:
        return _SPECIAL[option.name]
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value) or "none"
    if option.name.endswith("_bytes"):
        mebibytes, rest = divmod(value, 1 << 20)
        return f"{value >> 10} KiB" if rest else f"{mebibytes} MiB"
    return f"{value:g} s" if option.name.endswith("_s") else f"`{value}`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(_cell(text) for text in row) + " |\n" for row in lines)


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")


def limits_page() -> str:
    """What `flux explain` does not preview."""
    parts = [
        "# What has no preview\n\n"
        "`flux explain` gives an exact preview of a statement or none. These are all the reasons"
        " that it names under `NOT PREVIEWED` (`unsupported` in JSON), `…` standing for what"
        " differs; [How a query is compiled](explain.md) says what it does with everything else.\n"
    ]
    for title, limits in GROUPS:
        rows = [(f"`{limit.reason.replace('{}', '…')}`", limit.why) for limit in limits]
        parts.append(f"\n## {title}\n\n" + _table(("reason", "what is behind it"), rows))
    return "".join(parts)


def main() -> None:
    """Write the pages."""
    from flux_pg.database import schema
    from flux_pg.database.embedded import SUPERUSER, EmbeddedServer

    (DOCS / "configuration.md").write_text(configuration_page())
    (DOCS / "explain-limits.md").write_text(limits_page())
    with (
        tempfile.TemporaryDirectory(prefix="docs-") as folder,
        EmbeddedServer(Path(folder)) as server,
        psycopg.connect(server.dsn(SUPERUSER, "postgres"), autocommit=True) as conn,
    ):
        schema.install(conn)
        (DOCS / "record.md").write_text(record_page(conn))


if __name__ == "__main__":
    main()
