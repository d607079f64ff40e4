"""The generated pages are what their sources say now."""

from __future__ import annotations

from pathlib import Path

import psycopg

from docs.generate import FOR_PEOPLE, configuration_page, limits_page, record_page
from tests.conftest import Database

DOCS = Path(__file__).parents[2] / "docs"


def test_the_record_page_says_what_the_database_says(database18: Database) -> None:
    with psycopg.connect(database18.superuser, autocommit=True) as conn:
        page = record_page(conn)
    assert page == (DOCS / "record.md").read_text(), "stale: run `make docs`"
    for name in FOR_PEOPLE:
        assert f"### `flux.{name}`" in page


def test_the_configuration_page_says_what_the_settings_say() -> None:
    stale = "stale: run `make docs`"
    assert configuration_page() == (DOCS / "configuration.md").read_text(), stale


def test_the_limits_page_says_what_explain_says() -> None:
    assert limits_page() == (DOCS / "explain-limits.md").read_text(), "stale: run `make docs`"
