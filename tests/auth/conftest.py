"""Puts back what projects with callers change for the whole server, and for the whole process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg
import pytest

from flux_pg.database import roles


@pytest.fixture(autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """A served project sets what its .env says, unless it is set."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def service_sees_what_it_saw(request: pytest.FixtureRequest) -> Iterator[None]:
    """The tests that come after have policies for the runtime's login, too."""
    given = {"database", "database18"} & set(request.fixturenames)
    databases = [request.getfixturevalue(name) for name in given]
    yield
    for database in databases:
        with psycopg.connect(database.server.launcher.dsn("postgres", "postgres")) as conn:
            conn.execute(f"alter role {roles.APP} nobypassrls")
