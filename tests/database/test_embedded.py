"""The embedded server, with real processes."""

from __future__ import annotations

import psycopg


def test_a_test_database_has_schema_flux_and_its_roles(database):
    with psycopg.connect(database.app) as conn:
        assert conn.info.user == "flux_app"
        owner = conn.execute(
            "select nspowner::regrole::text from pg_namespace where nspname='flux'"
        )
        assert owner.fetchone() == ("flux_owner",)
