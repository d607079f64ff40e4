"""Logins and rights of the embedded server.

`flux_admin` owns the project's database and runs its migrations; `flux_app` is what functions run
as: it may read and write flux_admin's tables and write records through functions, nothing else.
Neither is a superuser. The group roles come from sql/roles.sql.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import psycopg
from psycopg import sql

from flux_pg.database import sql_files

ADMIN = "flux_admin"
APP = "flux_app"


def ensure_logins(conn: psycopg.Connection) -> None:
    """Create the roles of the embedded server; conn is a superuser's. Idempotent."""
    conn.execute(sql_files.read("roles.sql").encode())
    for name in (ADMIN, APP):
        if not _exists(conn, "select from pg_roles where rolname = %s", name):
            conn.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
        conn.execute(sql.SQL("grant flux_runtime, flux_reader to {}").format(sql.Identifier(name)))
    _let_become(conn, ADMIN, APP)


def ensure_callers(conn: psycopg.Connection, names: Iterable[str]) -> None:
    """Make the logins of callers, and let the service see every row; conn is a superuser's.

    A caller may do nothing but what migrations grant to him. Policies are about callers: the
    service is trusted, as it is on a server where it owns the tables. Idempotent.
    """
    for name in names:
        if not _exists(conn, "select from pg_roles where rolname = %s", name):
            conn.execute(sql.SQL("create role {}").format(sql.Identifier(name)))
        conn.execute(sql.SQL("alter role {} login").format(sql.Identifier(name)))
        conn.execute(sql.SQL("grant flux_caller to {}").format(sql.Identifier(name)))
        _let_become(conn, ADMIN, name)
    conn.execute(sql.SQL("alter role {} bypassrls").format(sql.Identifier(APP)))


def _let_become(conn: psycopg.Connection, owner: str, name: str) -> None:
    """So that `flux explain` can plan as the role; its rights are not the owner's."""
    apart = "" if conn.info.server_version < 160000 else " with inherit false, set true"
    member = sql.SQL("grant {} to {}" + apart)
    conn.execute(member.format(sql.Identifier(name), sql.Identifier(owner)))


def restrict_callers(conn: psycopg.Connection, dbname: str, service: str = APP) -> None:
    """Keep callers from making temporary tables in a database; conn is a superuser's. Idempotent.

    One would stay with its connection and stand in the way of the real table in the next request.
    """
    names = {"database": sql.Identifier(dbname), "admin": sql.Identifier(ADMIN),
             "service": sql.Identifier(service)}  # fmt: skip
    for statement in (
        "revoke temporary on database {database} from public",
        # flux_owner: what keeps the record small works with temporary tables.
        "grant temporary on database {database} to {admin}, {service}, flux_owner",
    ):
        conn.execute(sql.SQL(statement).format(**names))


CALLER_FACTS = """
select r.rolname::text as login,
    pg_catalog.pg_has_role(r.oid, 'flux_caller', 'usage') as is_caller,
    array(
        select t.rolname::text from pg_catalog.pg_roles as t
        where pg_catalog.pg_has_role(r.oid, t.oid, 'member') and case
            when t.oid = r.oid
                then t.rolsuper or t.rolbypassrls or t.rolcreaterole or t.rolreplication
            else t.rolname <> 'flux_caller' end
        order by t.oid <> r.oid, not exists (
            select from pg_catalog.pg_auth_members as m
            where m.member = r.oid and m.roleid = t.oid
        ), t.rolname limit 4
    ) as powers,
    array(
        select o.name
        from (
            select c.oid::regclass::text, c.relowner from pg_catalog.pg_class as c
            where c.relkind in ('r', 'p', 'v', 'm')
            union all
            select p.oid::regprocedure::text, p.proowner from pg_catalog.pg_proc as p
            union all
            select 'schema ' || pg_catalog.quote_ident(n.nspname), n.nspowner
            from pg_catalog.pg_namespace as n
        ) as o (name, owner)
        where o.owner = r.oid
        order by 1 limit 3
    ) as owned,
    pg_catalog.has_database_privilege(
        r.oid, pg_catalog.current_database(), 'TEMPORARY'
    ) as makes_temporary
from pg_catalog.pg_roles as r
where r.rolname = session_user
"""
"""What is known of the login that asks."""


class CallerFacts(NamedTuple):
    """A row of CALLER_FACTS."""

    login: str
    is_caller: bool
    powers: Sequence[str]
    owned: Sequence[str]
    makes_temporary: bool

    def problem(self) -> tuple[str, str] | None:
        """Why this login must not be a caller's, and what mends it; None if it may be."""
        name = sql.Identifier(self.login).as_string()
        if self.powers:
            return (
                f"the login {self.login} may do what a caller must not: it is or may become "
                f"{', '.join(self.powers)}",
                "Give callers a login of their own, with no rights but those that migrations "
                f"grant, such as: create role web_{self.login} login;",
            )
        if self.owned:
            return (
                f"the login {self.login} owns {', '.join(self.owned)}: policies are not for owners",
                "Let another role own the tables: alter table ... owner to ...;",
            )
        if not self.is_caller:
            return (
                f"the login {self.login} is not in flux_caller",
                f"As a superuser: grant flux_caller to {name};",
            )
        return None


def ensure_database(conn: psycopg.Connection, name: str) -> bool:
    """Create a database owned by flux_admin; conn is an autocommit superuser's.

    Returns:
        Whether it was made just now.
    """
    if _exists(conn, "select from pg_database where datname = %s", name):
        return False
    conn.execute(
        sql.SQL("create database {} owner {}").format(sql.Identifier(name), sql.Identifier(ADMIN))
    )
    return True


def grant_application_rights(conn: psycopg.Connection, admin: str = ADMIN, app: str = APP) -> None:
    """Let `app` use what `admin` creates in this database, now and later. Idempotent.

    Raises:
        psycopg.errors.InsufficientPrivilege: conn's role is not a member of `admin`.
    """
    names = {"admin": sql.Identifier(admin), "app": sql.Identifier(app)}
    for statement in (
        "alter default privileges for role {admin} grant select, insert, update, delete"
        " on tables to {app}",
        "alter default privileges for role {admin} grant usage, select on sequences to {app}",
        "alter default privileges for role {admin} grant usage on schemas to {app}",
        "grant usage on schema public to {app}",
    ):
        conn.execute(sql.SQL(statement).format(**names))


def _exists(conn: psycopg.Connection, query: str, name: str) -> bool:
    return conn.execute(query.encode(), (name,)).fetchone() is not None
