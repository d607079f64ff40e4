"""Databases without schema flux, for tests of the connection, the pool and batches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Database, Server


@pytest.fixture
def bare(server: Server) -> Iterator[Database]:
    """A fresh, empty database on each Postgres that is there."""
    made = server.create_database(flux=False)
    yield made
    server.drop_database(made.name)
