"""The logins of callers: what they must be before anything is served."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from flux_pg.config import load_settings
from flux_pg.database import embedded
from flux_pg.errors import UsageError
from tests.auth.desk import FUNCTIONS, open_desk
from tests.auth.test_replay import PROJECT, run_flux
from tests.conftest import Database

AUTH = '[auth]\nsecret_variable = "JWT_SECRET"\n'


async def _refusal(folder: Path, database: Database, login: str) -> UsageError:
    """What opening the application says when anon has this login."""
    logins = {"anon": login, "authenticated": "authenticated"}
    with pytest.RaisesGroup(UsageError, allow_unwrapped=True, flatten_subgroups=True) as raised:
        async with open_desk(folder, database, auth_roles=logins):
            pass
    error = raised.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, UsageError)
    return error


@pytest.mark.parametrize(
    ("make", "told", "mends"),
    [
        ("", "cannot log in", "create role odd login; grant flux_caller to odd"),
        ("create role odd login", "is not in flux_caller", "grant flux_caller to"),
        ("create role odd login in role flux_runtime, flux_caller", "flux_runtime", "login of"),
        ("create role odd login bypassrls in role flux_caller", "is or may become odd", "login of"),
        ("create role odd login in role pg_monitor, flux_caller", "pg_monitor", "login of"),
        ("create role odd login in role flux_admin, flux_caller", "flux_admin", "login of"),
        (
            "create role odd login in role flux_caller; create schema odds; create table odds.t ();"
            " alter table odds.t owner to odd",
            "owns odds.t",
            "Let another role own",
        ),
    ],
)
async def test_login_that_is_no_callers_is_refused(
    make: str, told: str, mends: str, tmp_path: Path, database18: Database
) -> None:
    with psycopg.connect(database18.superuser, autocommit=True) as conn:
        try:
            for statement in make.split("; "):
                conn.execute(statement)
            error = await _refusal(tmp_path, database18, "odd")
        finally:
            conn.execute("drop schema if exists odds cascade")
            conn.execute("drop role if exists odd")
    assert told in error.message
    assert mends in error.hint


async def test_doctor_looks_at_the_logins(tmp_path: Path, database18: Database) -> None:
    async with open_desk(tmp_path, database18):
        pass
    (tmp_path / "flux.toml").write_text(PROJECT + 'roles = {anon = "nobody_at_all"}\n')
    found = run_flux(tmp_path, database18, "doctor")
    callers = [one for one in found["findings"] if one["check"] == "callers"]
    assert [one["status"] for one in callers] == ["failure", "warning"]
    assert "create role nobody_at_all login" in callers[0]["fix"]
    assert "revoke temporary" in callers[1]["fix"]


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("[auth]\n", "needs one of secret_variable, public_key and jwks_url"),
        ('[auth]\nissuer = "x"\n', "needs one of"),
        (AUTH + 'public_key = "k.pem"\n', "not several"),
        (AUTH + 'algorithms = ["none"]\n', "must be a list of HS256"),
        (AUTH + 'algorithms = ["RS256"]\n', "do not go with auth.secret_variable"),
        (AUTH + 'algorithms = ["HS256", "RS256"]\n', "must not mix"),
        ('[auth]\njwks_url = "https://x/y"\nalgorithms = ["HS256"]\n', "do not go with"),
        ('[auth]\njwks_url = "ftp://x"\n', "must be an address"),
        ('[auth]\nsecret_variable = "a secret itself"\n', "the name of an environment variable"),
        (AUTH + 'audiance = "x"\n', "there is no setting auth.audiance"),
        (AUTH + '[auth.roles]\nservice = "flux_service"\n', "a login of Flux"),
        (AUTH + '[auth.roles]\nservice = "web_service"\n', "gives the service a login"),
        (AUTH + 'service_role = "anon"\n', "gives the service a login"),
        (AUTH + '[auth.roles]\nanon = "postgres"\n', "a login of Flux or of Postgres itself"),
        (AUTH + '[auth.roles]\n"a b" = "c"\n', "must be roles with their logins"),
        (AUTH + "leeway = -1\n", "auth.leeway must be a time"),
    ],
)
def test_bad_settings_are_named(toml: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "flux.toml").write_text(toml)
    with pytest.raises(UsageError, match=r"flux\.toml") as raised:
        load_settings(tmp_path, environ={})
    assert told in raised.value.message


def test_settings_without_auth_tell_nobody_apart(tmp_path: Path) -> None:
    (tmp_path / "flux.toml").write_text("[server]\nport = 4000\n")
    settings = load_settings(tmp_path, environ={})
    assert (settings.auth, settings.caller_logins, settings.caller_urls({})) == (False, (), {})


def test_logins_come_from_variables_or_the_runtimes_address(tmp_path: Path) -> None:
    (tmp_path / "flux.toml").write_text(AUTH + '[auth.roles]\neditor = "web_editor"\n')
    environment = {"DATABASE_URL": "postgresql://app:secret@db.example/shop?sslmode=require"}
    settings = load_settings(tmp_path, environ=environment)
    assert settings.caller_logins == ("anon", "authenticated", "web_editor")
    urls = settings.caller_urls({"ANON_DATABASE_URL": "postgresql://anon:its@db.example/shop"})
    assert urls["anon"] == "postgresql://anon:its@db.example/shop"
    assert "user=web_editor" in urls["editor"]
    assert "sslmode=require" in urls["editor"]
    assert "secret" not in urls["editor"]


async def test_function_that_needs_a_token_is_not_served_without_auth(
    tmp_path: Path, database18: Database
) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "flux.toml").touch()
    (tmp_path / "functions" / "main.py").write_text(
        "from flux_pg import Context, define_function\n" + FUNCTIONS
    )
    found = subprocess.run(
        [sys.executable, "-m", "flux_pg", "invoke", "note"],
        cwd=tmp_path, env={**os.environ, "DATABASE_URL": database18.app}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert "flux.toml has no [auth] to check it by" in found.stdout + found.stderr


def test_flux_makes_the_logins_of_its_own_server(tmp_path: Path) -> None:
    (tmp_path / "flux.toml").write_text(AUTH + '[auth.roles]\nanon = "web_anon"\n')
    settings = load_settings(tmp_path, environ={})
    with embedded.EmbeddedServer(settings.state_dir) as server:
        for _ in range(2):
            embedded.prepare(server, callers=settings.caller_logins)
        with (
            psycopg.connect(server.dsn("web_anon"), autocommit=True) as conn,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            conn.execute("create temporary table mine ()")
