"""A project with [auth], served over real HTTP in this process, and tokens for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

import httpx
import jwt
import psycopg
import trio

from flux_pg.config import Settings
from flux_pg.config_auth import ROLES
from flux_pg.database import embedded
from flux_pg.gateway import Limits, Server
from flux_pg.gateway.authentication import make_authenticator
from tests.conftest import Database
from tests.runtime.application import Harness, open_project

SECRET = "a secret of the tests, long enough for HS256"
ENVIRONMENT = {"JWT_SECRET": SECRET}
ANA, BEN = "ana", "ben"

SCHEMA = """
create table notes (
    id int primary key generated always as identity,
    owner text not null default flux.claim('sub'),
    body text not null
);
alter table notes enable row level security;
create policy own_notes on notes to authenticated using (owner = (select flux.claim('sub')));
grant select, insert, update, delete on notes to authenticated;
create table board (id int primary key generated always as identity, body text not null);
grant select on board to anon, authenticated;
insert into board (body) values ('welcome');
"""

FUNCTIONS = """
@define_function(method="GET")
async def notes(ctx: Context):
    return await ctx.db.query("select owner, body from notes order by id")

@define_function(auth="user")
async def note(ctx: Context, body: str):
    return await ctx.db.query("insert into notes (body) values (%s) returning id, owner", [body])

@define_function(method="GET")
async def board(ctx: Context):
    return await ctx.db.query("select body from board")

@define_function(method="GET")
async def me(ctx: Context):
    return await ctx.db.fetch_one(
        "select current_user::text as role, session_user::text as login, flux.claims() as claims"
    )

@define_function(auth="service", method="GET")
async def all_notes(ctx: Context):
    return await ctx.db.query("select owner, body from notes order by id")

@define_function(role="service", method="GET")
async def count_notes(ctx: Context):
    return await ctx.db.fetch_one("select count(*) as n, flux.claim('sub') as sub from notes")

@define_function
async def inject(ctx: Context, sql: str):
    return await ctx.db.query(sql)
"""


def make_token(sub: str | None = None, *, key: Any = SECRET, algorithm: str = "HS256",
               headers: dict[str, Any] | None = None, **claims: Any) -> str:  # fmt: skip
    """A signed token, good for five minutes unless told otherwise; a claim of None is left out."""
    whole = {"sub": sub, "exp": int(time()) + 300, **claims}
    given = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(given, key, algorithm, headers)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@dataclass
class Desk:
    """A served project."""

    harness: Harness
    client: httpx.AsyncClient

    async def get(self, path: str, token: str | None = None, **headers: str) -> httpx.Response:
        return await self.ask("GET", path, token, **headers)

    async def post(self, path: str, token: str | None = None, **body: Any) -> httpx.Response:
        return await self.ask("POST", path, token, body=body)

    async def ask(
        self, method: str, path: str, token: str | None, body: Any = None, **headers: str
    ) -> httpx.Response:
        sent = {**(bearer(token) if token else {}), **headers}
        return await self.client.request(method, path, headers=sent, json=body)

    def execution(self, answer: httpx.Response) -> dict[str, Any]:
        return self.harness.execution(answer.headers["x-request-id"])

    def spans(self, answer: httpx.Response) -> list[dict[str, Any]]:
        return self.harness.spans(answer.headers["x-request-id"])


@asynccontextmanager
async def open_desk(
    folder: Path,
    database: Database,
    functions: str = FUNCTIONS,
    schema: str = SCHEMA,
    **settings: Any,
) -> AsyncIterator[Desk]:
    """Write the project, make its roles and tables, serve it."""
    with psycopg.connect(database.superuser, autocommit=True) as conn:
        embedded.admit_callers(database.server.launcher, conn, ROLES.values())
    auth: dict[str, Any] = {
        "auth": True,
        "auth_secret_variable": "JWT_SECRET",
        "auth_algorithms": ("HS256",),
        "auth_roles": ROLES,
        "dotenv": ENVIRONMENT,
        **settings,
    }
    async with open_project(folder, database, functions, schema, **auth) as harness:
        authenticator = make_authenticator(
            Settings(project_dir=folder, state_dir=folder / ".flux", **auth), ENVIRONMENT
        )
        server = Server(harness.application, Limits(), authenticator)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, listeners)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield Desk(harness, client)
            await server.drain(10)
            nursery.cancel_scope.cancel()
