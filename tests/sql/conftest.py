"""What the tests of the mutation log share."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import Database
from tests.sql.log import Log


@pytest.fixture
def log(database: Database) -> Iterator[Log]:
    """The mutation log of a fresh database, seen by the role that owns the tables."""
    with psycopg.connect(database.admin, autocommit=True, application_name="test") as conn:
        yield Log(conn, database)


@pytest.fixture
def log18(database18: Database) -> Iterator[Log]:
    """The same, on Postgres 18 only."""
    with psycopg.connect(database18.admin, autocommit=True, application_name="test") as conn:
        yield Log(conn, database18)
