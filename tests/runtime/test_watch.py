"""Which changes reload, and that none of them is missed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from flux_pg.runtime import watch
from flux_pg.runtime.watch import is_watched, watch_project, watched_folders
from tests.runtime.processes import PATIENCE_S


class Seen:
    """Every changed file so far."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self._more = trio.Event()

    def __call__(self, changed: tuple[str, ...]) -> None:
        self.files.update(changed)
        self._more.set()

    async def wait(self, file: str) -> None:
        """Wait for a change of that file."""
        with trio.fail_after(PATIENCE_S):
            while file not in self.files:
                self._more = trio.Event()
                await self._more.wait()


@asynccontextmanager
async def watching(project: Path) -> AsyncIterator[Seen]:
    seen = Seen()
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_project, project, seen)
        yield seen
        nursery.cancel_scope.cancel()


async def write_until_seen(path: Path, project: Path, seen: Seen) -> None:
    """Change a file until it is noticed: the watcher's thread may not have begun to look."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = str(path.relative_to(project))
    with trio.fail_after(PATIENCE_S):
        for number in range(1000):
            path.write_text(f"{number}\n")
            with trio.move_on_after(0.5):
                await seen.wait(name)
                return


async def test_changed_new_and_deleted_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    async with watching(tmp_path) as seen:
        await write_until_seen(tmp_path / "functions" / "a.py", tmp_path, seen)
        await write_until_seen(tmp_path / "functions" / "deep" / "b.py", tmp_path, seen)
        await write_until_seen(tmp_path / "flux.toml", tmp_path, seen)
        seen.files.clear()
        (tmp_path / "functions" / "a.py").unlink()
        await seen.wait("functions/a.py")


async def test_a_folder_that_appears_later_is_watched(tmp_path: Path) -> None:
    async with watching(tmp_path) as seen:
        (tmp_path / "functions").mkdir()
        (tmp_path / "functions" / "first.py").write_text("")
        await seen.wait("functions/first.py")
        await write_until_seen(tmp_path / "functions" / "second.py", tmp_path, seen)


async def test_a_file_written_while_a_new_folder_is_listed_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = os.walk

    def walk_slowly(folder: Path) -> Iterator[Any]:
        found = list(walk(folder))
        (folder / "late.py").write_text("")
        return iter(found)

    monkeypatch.setattr(os, "walk", walk_slowly)
    async with watching(tmp_path) as seen:
        (tmp_path / "functions").mkdir()
        (tmp_path / "functions" / "first.py").write_text("")
        await seen.wait("functions/first.py")
        await seen.wait("functions/late.py")


async def test_a_folder_that_is_made_anew_is_watched(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    async with watching(tmp_path) as seen:
        (tmp_path / "functions").rmdir()
        (tmp_path / "functions").mkdir()
        (tmp_path / "functions" / "first.py").write_text("")
        await seen.wait("functions/first.py")
        (tmp_path / "functions" / "second.py").write_text("")
        await seen.wait("functions/second.py")


async def test_a_folder_that_is_gone_before_it_is_watched_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [tmp_path / "gone"]
    monkeypatch.setattr(watch, "watched_folders", lambda _: listed)
    async with watching(tmp_path) as seen:
        (tmp_path / "flux.toml").write_text("")
        await seen.wait("flux.toml")


async def test_what_the_runtime_writes_is_not_reported(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    async with watching(tmp_path) as seen:
        await write_until_seen(tmp_path / "functions" / "a.py", tmp_path, seen)
        for name in (".flux/data.py", "functions/__pycache__/a.py", ".venv/lib.py", "notes.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x")
        await write_until_seen(tmp_path / "functions" / "b.py", tmp_path, seen)
        assert seen.files == {"functions/a.py", "functions/b.py"}


async def test_watching_ends_at_once_when_cancelled(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    async with watching(tmp_path):
        begun = trio.current_time()
    # watchfiles alone would wait for up to five seconds.
    assert trio.current_time() - begun < 4


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("functions/a.py", True),
        ("flux.toml", True),
        (".env", True),
        ("migrations/001_users.sql", True),
        ("functions/.hidden.py", False),
        ("functions/a.py~", False),
        ("functions/__pycache__/a.cpython-311.pyc", False),
        (".git/index.py", False),
        ("node_modules/x/index.ts", False),
    ],
)
def test_only_source_files_reload(path: str, expected: bool) -> None:
    assert is_watched(Path(path)) is expected


def test_environments_and_hidden_folders_are_not_watched(tmp_path: Path) -> None:
    for name in ("functions", "lib", ".flux", "node_modules", "myenv"):
        (tmp_path / name).mkdir()
    (tmp_path / "myenv" / "pyvenv.cfg").write_text("")
    assert [folder.name for folder in watched_folders(tmp_path)] == ["functions", "lib"]
