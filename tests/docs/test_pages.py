"""Every transcript of the documentation, run word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.page import read_steps
from tests.docs.session import run_page

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
RUN = [page.relative_to(ROOT) for page in PAGES if read_steps(page)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", RUN, ids=str)
def test_the_page_says_what_happens(page: Path, tmp_path: Path) -> None:
    run_page(ROOT / page, tmp_path)


def test_the_pages_that_have_to_run_are_among_them() -> None:
    assert {"README.md", "docs/quickstart.md", "docs/psql.md"} <= {str(page) for page in RUN}
