"""CHANGED SINCE LAST SUCCESS: commits, files and steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flux_pg.cli.git import changes_between
from tests.cli.conftest import Flux
from tests.cli.records import SPAN, record, span
from tests.cli.test_why import ERROR, deploy, git, project


def test_the_commits_the_files_and_the_slow_steps_between_are_told(
    flux: Flux, conn: Any, tmp_path: Path
) -> None:
    old = project(tmp_path)
    (tmp_path / "functions" / "other.py").write_text("x = 1\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "Add another")
    source = tmp_path / "functions" / "order.py"
    source.write_text(source.read_text() + "\n# more\n")
    git(tmp_path, "rm", "-q", "flux.toml")
    (tmp_path / "flux.toml").write_text("")
    git(tmp_path, "commit", "-q", "-a", "-m", "Change the order")
    new = git(tmp_path, "rev-parse", "HEAD")

    def spans(length: int) -> list[dict[str, Any]]:
        return [
            span(SPAN, None, "function", "order", 0, length + 9),
            span("1" * 16, SPAN, "db", "select from stock", 1, length),
            span("2" * 16, SPAN, "db", "insert into orders", 1, 900),
        ]

    record(conn, deployment=deploy(conn, old), spans=spans(2000))
    record(conn, deployment=deploy(conn, new), outcome="error", error=ERROR, spans=spans(90_000))
    page = flux("why", "@last").out
    rest = page[page.index("CHANGED SINCE LAST SUCCESS") :]
    for text in (
        f"commit      {old[:10]} → {new[:10]}, 2 commits on",
        "files       functions/order.py (in the stack), flux.toml (gone), functions/other.py (new)",
        "slower      db select from stock: 2.00 ms → 90.0 ms",
    ):
        assert text in rest, rest
        rest = rest[rest.index(text) :]
    assert "slower      db insert" not in page and "slower      function" not in page
    changes = json.loads(flux("why", "@last", "--json").out)["changes"]
    assert changes["commits"] == 2
    assert changes["files"][0] == {"file": "functions/order.py", "status": "M", "in_stack": True}
    assert changes["slower"] == [
        {"kind": "db", "name": "select from stock", "before_us": 2000, "now_us": 90_000}
    ]


def test_commits_that_are_not_here_are_not_guessed_about(
    flux: Flux, conn: Any, tmp_path: Path
) -> None:
    commit = project(tmp_path)
    record(conn, deployment=deploy(conn, "a" * 40))
    record(conn, deployment=deploy(conn, commit), outcome="error", error=ERROR)
    changes = json.loads(flux("why", "@last", "--json").out)["changes"]
    assert (changes["commits"], changes["files"]) == (None, None)
    # What stands in the record is no option of git's.
    assert changes_between(tmp_path, "--output=x", commit) is None
    assert not (tmp_path / "x").exists()
