"""The definitions of a scratch database: pg_dump of the source, restored in two parts.

Between them, where no trigger, foreign key or index exists yet, the rows are loaded. What cannot
be made here (an extension that is missing, a foreign server) is noted and left out; so is whatever
would lead out of the database.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flux_pg.database.binaries import find_client
from flux_pg.errors import FluxError
from flux_pg.replay.scratch_server import LOADER, ScratchServer
from flux_pg.replay.scratch_source import Source

LEADING_OUT = frozenset(
    {"dblink", "postgres_fdw", "file_fdw", "http", "pg_net", "pg_cron", "plperlu", "plpython3u",
     "pltclu", "adminpack", "pg_background", "aws_s3", "aws_lambda", "aws_commons", "mysql_fdw",
     "oracle_fdw", "tds_fdw", "multicorn", "wrappers"}
)  # fmt: skip
"""Extensions that reach files, programs or the network: never made in a scratch database."""

_LEFT_OUT = re.compile(
    r"^\d+; \d+ \d+ (?:EVENT TRIGGER |SERVER |USER MAPPING |FOREIGN DATA WRAPPER |PUBLICATION |"
    r"SUBSCRIPTION |DATABASE |EXTENSION - flux |COMMENT - EXTENSION flux )"
)
_FLUX_TRIGGER = re.compile(r"^\d+; \d+ \d+ TRIGGER .* !?flux_\w+ \S+$")
_ERROR = re.compile(r"could not execute query: ERROR:  (.+)")
_HARMLESS = re.compile(r'^(schema|extension) "[^"]+" already exists')
# Whatever belongs to a superuser, so that no function or view of the source runs as one here.
_SEAL = """
select c.kind, c.name
from (
    select case c.relkind when 'v' then 'view' when 'm' then 'materialized view'
            when 'S' then 'sequence' when 'f' then 'foreign table' else 'table' end as kind,
        c.oid::regclass::text as name, c.oid, 'pg_class'::regclass as class, c.relnamespace as home,
        c.relowner as owner
    from pg_class as c
    where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and not exists (
        select from pg_depend as d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid
            and d.deptype in ('a', 'i') and c.relkind = 'S'
    )
    union all
    select case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end,
        p.oid::regprocedure::text, p.oid, 'pg_proc'::regclass, p.pronamespace, p.proowner
    from pg_proc as p
    union all
    select 'schema', quote_ident(n.nspname), n.oid, 'pg_namespace'::regclass, n.oid, n.nspowner
    from pg_namespace as n
) as c
join pg_namespace as n on n.oid = c.home
join pg_roles as r on r.oid = c.owner
where r.rolsuper and n.nspname not in ('flux', 'information_schema') and n.nspname !~ '^pg_'
    and not exists (
        select from pg_depend as d
        where d.classid = c.class and d.objid = c.oid and d.deptype = 'e'
    )
"""


class ScratchError(FluxError):
    """A scratch database cannot be made; the message says why."""

    code = "scratch"


def dump_schema(source_url: str, version: int, snapshot: str, file: Path) -> None:
    """Dump the definitions of the source under an exported snapshot. Blocks.

    Raises:
        ScratchError: pg_dump failed.
        PostgresNotFound: There is no pg_dump for that version.
    """
    program = find_client("pg_dump", version)
    target, environment = _apart(source_url)
    command = [str(program), "--dbname", target, "--format=custom", "--compress=0"]
    command += ["--schema-only", f"--snapshot={snapshot}", f"--file={file}", "--no-comments"]
    command += ["--exclude-schema=flux", "--no-tablespaces", "--no-security-labels"]
    command += ["--no-publications", "--no-subscriptions", "--lock-wait-timeout=10s"]
    done = _run(command, environment)
    if done.returncode != 0:
        raise ScratchError(
            f"pg_dump of the definitions failed: {_last(done.stderr)}",
            "The login needs the right to read every table; see `flux doctor`.",
        )


def list_entries(file: Path, version: int) -> Path:
    """Write the list of what is restored beside the dump; returns its path. Blocks."""
    done = _run([str(find_client("pg_restore", version)), "--list", str(file)], {})
    if done.returncode != 0:
        raise ScratchError(f"pg_restore failed: {_last(done.stderr)}", "This is a fault of Flux.")
    chosen = [
        line
        for line in done.stdout.splitlines()
        if not _LEFT_OUT.match(line) and not _FLUX_TRIGGER.match(line)
    ]
    entries = file.with_suffix(".list")
    entries.write_text("\n".join(chosen) + "\n")
    return entries


def restore(target: str, file: Path, entries: Path, section: str, version: int) -> list[str]:
    """Make one part (`pre-data` or `post-data`); returns what could not be made. Blocks."""
    command = [str(find_client("pg_restore", version)), "--dbname", target]
    command += [f"--section={section}", f"--use-list={entries}", str(file)]
    done = _run(command, {})
    problems = [m[1] for m in _ERROR.finditer(done.stderr) if not _HARMLESS.match(m[1])]
    if done.returncode != 0 and not _ERROR.search(done.stderr):
        raise ScratchError(f"pg_restore failed: {_last(done.stderr)}", "This is a fault of Flux.")
    return problems


def make_roles(scratch: ScratchServer, source: Source) -> None:
    """Make the roles that definitions name, without rights of their own on the server."""
    for role in source.roles:
        # The owner runs migrations.
        logs_in = role["name"] in (source.login, source.owner)
        options = "bypassrls" if role["bypasses"] else ""
        scratch.ensure_role(role["name"], login=logs_in, options=options)
    for role in source.roles:
        scratch.grant_roles(role["groups"], role["name"])
    scratch.grant_roles([role["name"] for role in source.roles], LOADER)
    login = LOADER if source.login_is_super else source.login
    scratch.grant_roles(["flux_runtime", "flux_reader"], login)


def make_extensions(conn: psycopg.Connection, source: Source) -> list[str]:
    """Make the extensions of the source; returns what is missing. conn is a superuser's."""
    problems = []
    for name, schema in source.extensions:
        if name in LEADING_OUT:
            problems.append(f"extension {name} leads out of the database and is left out")
            continue
        home, extension = sql.Identifier(schema), sql.Identifier(name)
        try:
            with conn.transaction():
                conn.execute(sql.SQL("create schema if not exists {}").format(home))
                conn.execute(
                    sql.SQL("create extension if not exists {} schema {} cascade").format(
                        extension, home
                    )
                )
        except psycopg.Error as error:
            problems.append(f"extension {name} cannot be made here: {error.diag.message_primary}")
    return problems


def seal(conn: psycopg.Connection) -> None:
    """Take from superusers what the source's definitions gave them. conn is a superuser's."""
    for kind, name in conn.execute(_SEAL).fetchall():
        conn.execute(f"alter {kind} {name} owner to {LOADER}".encode())


def apply_settings(conn: psycopg.Connection, dbname: str, source: Source) -> list[str]:
    """Set for the database what the source sets for its login; conn is the loader's."""
    problems = []
    for setting in source.settings:
        name, _, value = setting.partition("=")
        if name in ("role", "session_authorization", "session_preload_libraries"):
            continue
        # Lists are kept quoted as they are written; everything else is one literal.
        literal = sql.SQL(value) if name == "search_path" else sql.Literal(value)
        try:
            conn.execute(
                sql.SQL("alter database {} set {} = {}").format(
                    sql.Identifier(dbname), sql.Identifier(name), literal
                )
            )
        except psycopg.Error as error:
            problems.append(f"setting {name} is left out: {error.diag.message_primary}")
    return problems


def _apart(url: str) -> tuple[str, dict[str, str]]:
    """A connection string without its password, which other processes could read, and that."""
    parts = conninfo_to_dict(url)
    password = parts.pop("password", None)
    return make_conninfo("", **parts), {"PGPASSWORD": str(password)} if password else {}


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment, "LC_ALL": "C", "PGAPPNAME": "flux scratch"},
        check=False,
    )


def _last(text: str) -> str:
    return " ".join(text.strip().splitlines()[-3:])
