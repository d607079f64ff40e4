"""The checks of `flux doctor`. Each looks at one thing and says what it found and how to fix it."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psycopg

from flux_pg.analysis.text import clean, duration, plural
from flux_pg.cli.git import run_git
from flux_pg.cli.session import Database
from flux_pg.config import Settings
from flux_pg.config_auth import url_variable

Status = Literal["ok", "warning", "failure", "unknown"]
OLDEST_MAJOR, NEWEST_MAJOR = 15, 18


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `unknown` means that it could not look, which is not "all is well"."""

    check: str
    status: Status
    message: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined. `database` is the runtime's own login."""

    settings: Settings
    project: Path | None
    database: Database

    def one(self, query: str, *arguments: Any) -> dict[str, Any]:
        """Return the only row of a query."""
        row = self.database.execute(query.encode(), arguments or None).fetchone()
        assert row is not None
        return row

    def all(self, query: str, *arguments: Any) -> list[dict[str, Any]]:
        """Return every row of a query."""
        return self.database.execute(query.encode(), arguments or None).fetchall()


Check = Callable[[Patient], Iterator[Finding]]


def check_version(patient: Patient) -> Iterator[Finding]:
    """Is this a Postgres that Flux supports?"""
    major = patient.database.info.server_version // 10000
    text = f"Postgres {patient.one('show server_version')['server_version']}"
    if OLDEST_MAJOR <= major <= NEWEST_MAJOR:
        yield Finding("postgres", "ok", text)
    else:
        fix = f"Use Postgres {OLDEST_MAJOR} to {NEWEST_MAJOR}."
        yield Finding("postgres", "failure", f"{text} is not supported", fix)


def check_schema(patient: Patient) -> Iterator[Finding]:
    """Is schema flux there, and the one this Flux carries?"""
    from flux_pg.database import sql_files

    if not patient.one("select to_regclass('flux.schema_version') is not null as there")["there"]:
        yield Finding("schema", "failure", "schema flux is not installed", "Run `flux db migrate`.")
        return
    found = patient.one(
        "select version, tables_checksum, code_checksum, installed_as from flux.schema_version"
    )
    body = sql_files.body()
    mine = (body.version, body.tables_checksum, body.code_checksum)
    text = f"schema flux {found['version']}, installed as {found['installed_as']}"
    if (found["version"], found["tables_checksum"], found["code_checksum"]) == mine:
        yield Finding("schema", "ok", text)
    elif found["version"] != body.version:
        yield _other_version(text, found["version"], body.version)
    elif found["tables_checksum"] != body.tables_checksum:
        message = f"{text}, comes from another unreleased build, whose tables differ from this one"
        yield Finding("schema", "failure", message, "`flux db migrate` says how to go on.")
    else:
        # Of a released version there is one build only: somebody works on Flux itself.
        message = f"{text}, comes from another unreleased build, whose functions differ"
        yield Finding("schema", "warning", message, "Run `flux db migrate`.")


def _other_version(text: str, found: str, mine: str) -> Finding:
    theirs, ours = ([int(n) for n in re.findall(r"\d+", one)] for one in (found, mine))
    if theirs > ours:
        message = f"{text}, is newer than this Flux ({mine})"
        return Finding("schema", "failure", message, f"Upgrade flux-pg on this machine to {found}.")
    message = f"{text}, is older than this Flux ({mine})"
    return Finding("schema", "failure", message, "Run `flux db migrate`.")


def check_rights(patient: Patient) -> Iterator[Finding]:
    """Has the runtime's login the rights it needs, and no more?"""
    row = patient.one(
        "select current_user::text as name, r.rolsuper, r.rolbypassrls,"
        " coalesce(pg_has_role(to_regrole('flux_runtime'), 'MEMBER'), false) as runtime,"
        " coalesce(pg_has_role(to_regrole('flux_reader'), 'MEMBER'), false) as reader"
        " from pg_roles as r where r.rolname = current_user"
    )
    name = clean(row["name"])
    for role, needed in (("flux_runtime", row["runtime"]), ("flux_reader", row["reader"])):
        if not needed:
            fix = f'As a superuser: grant {role} to "{name}";'
            yield Finding("rights", "failure", f"role {name} is not a member of {role}", fix)
    if row["rolbypassrls"] and not row["rolsuper"] and patient.settings.auth:
        yield Finding(
            "rights", "ok", f"the service runs as {name}, past all policies; callers have logins"
        )
    elif row["rolsuper"] or row["rolbypassrls"]:
        what = "is a superuser" if row["rolsuper"] else "bypasses row-level security"
        yield Finding(
            "rights",
            "warning",
            f"functions run as {name}, which {what}: no policy holds for them",
            "Let the runtime log in as a plain role that is a member of flux_runtime and "
            "flux_reader; give the owner's login as database.admin_url.",
        )
    elif row["runtime"] and row["reader"]:
        yield Finding("rights", "ok", f"functions run as {name}, without special rights")


_VERIFY = """
select v.finding, v."table", count(*) as times, min(v.detail) as detail
from flux.verify(now() - interval '1 day') as v
group by v.finding, v."table"
order by v."table", v.finding
"""
_TABLE_FINDINGS = ("trigger missing", "trigger disabled", "recorder out of date", "table is gone")


def check_tracking(patient: Patient) -> Iterator[Finding]:
    """Is every table recorded, with its triggers on, and does the record of a day fit together?"""
    found = patient.all(_VERIFY)
    for row in found:
        table = clean(row["table"] or "")
        if row["finding"] == "table not tracked":
            yield Finding(
                "tracking", "warning", f"{table} is not tracked", f"Run `flux db track {table}`."
            )
        elif row["finding"] in _TABLE_FINDINGS:
            yield Finding(
                "tracking", "failure", f"{table}: {row['finding']}; changes may go unrecorded",
                "Run `flux db migrate`." if row["finding"] == "table is gone"
                else f"Run `flux db track {table}`.",
            )  # fmt: skip
        else:
            where = f" of {table}" if table else ""
            yield Finding(
                "record", "failure", f"{row['finding']}{where}, {row['times']} times in a day: "
                f"{row['detail']}", "select * from flux.verify();",
            )  # fmt: skip
    if not found:
        row = patient.one(
            "select count(*) as tables from flux.tracked_tables as t where t.untracked_at is null"
        )
        tables = plural(row["tables"], "table")
        text = f"{tables} tracked, and the record of the last day fits together"
        yield Finding("tracking", "ok", text)


def check_new_tables(patient: Patient) -> Iterator[Finding]:
    """Will a new table be tracked by itself?"""
    found = patient.all(
        "select t.evtname, t.evtenabled from pg_event_trigger as t"
        " join pg_proc as p on p.oid = t.evtfoid where p.pronamespace = 'flux'::regnamespace"
    )
    if any(row["evtenabled"] in ("O", "A") for row in found):
        yield Finding("new tables", "ok", "a new table is tracked by itself")
    else:
        yield Finding(
            "new tables",
            "warning",
            "a new table is tracked only by `flux db migrate`: there is no event trigger here",
            "Install schema flux as a superuser, or run `select flux.track_missing()` after DDL.",
        )


def check_clock(patient: Patient) -> Iterator[Finding]:
    """Do this machine and the server agree about the time?"""
    before = time.time()
    server = patient.one("select extract(epoch from clock_timestamp())::float8 as at")["at"]
    after = time.time()
    skew_s = server - (before + after) / 2
    doubt_s = (after - before) / 2
    text = f"the server's clock is {duration(abs(skew_s) * 1e6)} "
    text += "ahead of" if skew_s > 0 else "behind"
    if abs(skew_s) <= doubt_s + 0.5:
        yield Finding("clock", "ok", "the clocks of this machine and the server agree")
    else:
        yield Finding("clock", "warning", f"{text} this machine's", "Run NTP on both.")


def check_pooler(patient: Patient) -> Iterator[Finding]:
    """Is a pooler in the way of LISTEN?"""
    # A proxy hands out process numbers of its own in the protocol's greeting.
    real = patient.one("select pg_backend_pid() as pid")["pid"]
    if real == patient.database.info.backend_pid:
        yield Finding("pooler", "ok", "the connection is direct")
        return
    if patient.settings.prepare_statements == "on":
        yield Finding(
            "pooler", "warning",
            "a pooler is in between, and statements are prepared: if it pools transactions and is "
            "not PgBouncer 1.21 or newer with max_prepared_statements, requests will fail",
            'Set database.prepare_statements = "off".',
        )  # fmt: skip
    if patient.settings.listen_url:
        yield Finding("pooler", "ok", "a pooler is in between; LISTEN has a login of its own")
    else:
        yield Finding(
            "pooler", "warning", "a pooler is in between: LISTEN may not reach the workers",
            "Give a direct login as database.listen_url.",
        )  # fmt: skip


def check_transactions(patient: Patient) -> Iterator[Finding]:
    """Does an old transaction hold back vacuum?"""
    row = patient.one(
        "select coalesce(max(extract(epoch from clock_timestamp() - a.xact_start)), 0)::float8"
        " as oldest_s, (array_agg(a.pid order by a.xact_start))[1] as pid from pg_stat_activity"
        " as a where a.xact_start is not null and a.backend_type = 'client backend'"
        " and a.pid <> pg_backend_pid()"
    )
    if row["oldest_s"] < 600:
        yield Finding("transactions", "ok", "no transaction is older than ten minutes")
    else:
        yield Finding(
            "transactions", "warning",
            f"a transaction is open since {duration(row['oldest_s'] * 1e6)} (pid {row['pid']}); "
            "nothing that is deleted can be cleaned up meanwhile",
            f"Look at pg_stat_activity; end it with select pg_terminate_backend({row['pid']});",
        )  # fmt: skip


def check_durability(patient: Patient) -> Iterator[Finding]:
    """Does a commit outlive a power failure?"""
    off = [
        name
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if patient.one("select current_setting(%s) as value", name)["value"] == "off"
    ]
    if off:
        yield Finding(
            "durability", "warning", f"{' and '.join(off)} off: a crash can lose or break records",
            "Turn it on in production.",
        )  # fmt: skip
    else:
        yield Finding("durability", "ok", "a commit is on disk before it is answered")


def check_log(patient: Patient) -> Iterator[Finding]:
    """How large is the log, and how far does it reach back?"""
    size = patient.one(
        "select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint as bytes from pg_class as c"
        " where c.relnamespace = 'flux'::regnamespace and c.relkind = 'r'"
    )["bytes"]
    oldest = patient.all(
        "select e.started_at from flux.executions as e order by e.request_id limit 1"
    )
    text = f"the log takes {_size(size)}"
    if oldest:
        text += f" and reaches back to {oldest[0]['started_at'].astimezone():%Y-%m-%d %H:%M}"
    if size > 50 << 30:
        yield Finding("log", "warning", text, "Run `flux prune --older-than 30d`.")
    else:
        yield Finding("log", "ok", text)


def check_partitions(patient: Patient) -> Iterator[Finding]:
    """Did rows land in a DEFAULT partition because theirs was missing?"""
    # Asked of the statistics: the runtime may not read a partition on its own.
    rows = patient.all(
        "select c.oid::regclass::text as name from pg_class as c join pg_inherits as i"
        " on i.inhrelid = c.oid where c.relnamespace = 'flux'::regnamespace"
        " and pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT'"
        " and pg_relation_size(c.oid) > 0 and pg_stat_get_live_tuples(c.oid) > 0"
    )
    filled = [clean(row["name"]) for row in rows]
    if filled:
        yield Finding(
            "partitions", "warning", f"rows are in {', '.join(filled)}: pruning must delete them",
            "They came before their partition was made; they go with `flux prune` in time.",
        )  # fmt: skip
    else:
        yield Finding("partitions", "ok", "the default partitions are empty")


def check_migrations(patient: Patient) -> Iterator[Finding]:
    """Does the database have what the files say?"""
    import psycopg

    from flux_pg.database import migrations

    if patient.project is None:
        return
    info = patient.database.info
    with psycopg.connect(info.dsn, password=info.password or None) as plain:
        found = migrations.state(plain, patient.project / "migrations")
    for name in found.changed:
        yield Finding(
            "migrations", "failure", f"{name} was changed after it was applied",
            "Put it back and write the change into a new file.",
        )  # fmt: skip
    if found.pending:
        text = f"not applied yet: {', '.join(found.pending)}"
        yield Finding("migrations", "warning", text, "Run `flux db migrate`.")
    if not found.changed and not found.pending:
        yield Finding("migrations", "ok", f"all {len(found.applied)} are applied")


def check_git(patient: Patient) -> Iterator[Finding]:
    """Will records know their commit?"""
    if patient.project is None:
        return
    commit = run_git(patient.project, ["rev-parse", "--verify", "--quiet", "HEAD"])
    if not commit:
        yield Finding(
            "git", "warning", "no commit is known: records cannot say which code ran",
            "git init, git add -A, git commit",
        )  # fmt: skip
        return
    status = run_git(patient.project, ["status", "--porcelain", "--", "."])
    if status:
        yield Finding(
            "git", "warning", f"commit {commit[:10]}, with changes that are not committed",
            "Commit them, so that a record's line has an author.",
        )  # fmt: skip
    else:
        yield Finding("git", "ok", f"commit {commit[:10]}, nothing uncommitted")


def check_callers(patient: Patient) -> Iterator[Finding]:
    """Where callers are told apart: can their logins do what they must, and nothing else?"""
    from flux_pg.database.roles import CALLER_FACTS, CallerFacts

    settings = replace(patient.settings, database_url=patient.database.info.dsn)
    environment = {**settings.dotenv, **os.environ}
    for role, url in settings.caller_urls(environment).items():
        try:
            with psycopg.connect(url, connect_timeout=10) as conn:
                row = conn.execute(CALLER_FACTS.encode()).fetchone()
        except psycopg.OperationalError as error:
            told = " ".join(str(error).split())
            login = (settings.auth_roles or {})[role]
            yield Finding(
                "callers", "failure", f"callers of role {role} cannot log in: {told}",
                f"As a superuser: create role {login} login; grant flux_caller to {login}; and set "
                f"{url_variable(role)} if it needs a password.",
            )  # fmt: skip
            continue
        assert row is not None
        facts = CallerFacts(*row)
        problem = facts.problem()
        if problem is not None:
            yield Finding("callers", "failure", *problem)
        elif facts.makes_temporary:
            yield Finding(
                "callers", "warning", f"{facts.login} may make temporary tables, which could stand "
                "in the way of the real ones in later requests",
                f"As the owner: revoke temporary on database {patient.database.info.dbname} from "
                "public; and grant it to the login of DATABASE_URL.",
            )  # fmt: skip
        else:
            yield Finding("callers", "ok", f"role {role} is the login {facts.login}")


def check_disk(patient: Patient) -> Iterator[Finding]:
    """Is there room for the embedded database?"""
    if patient.settings.database_url is not None:
        return
    usage = shutil.disk_usage(patient.settings.state_dir)
    text = f"{_size(usage.free)} free under {patient.settings.state_dir}"
    if usage.free < 1 << 30:
        yield Finding("disk", "failure", text, "Free some; `flux prune --older-than 7d` helps.")
    else:
        yield Finding("disk", "ok", text)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


CHECKS: tuple[Check, ...] = (
    check_version,
    check_schema,
    check_rights,
    check_tracking,
    check_new_tables,
    check_migrations,
    check_clock,
    check_pooler,
    check_transactions,
    check_durability,
    check_log,
    check_partitions,
    check_callers,
    check_git,
    check_disk,
)
