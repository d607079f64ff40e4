"""Tells the supervisor that files of the project changed, so that `flux dev` can reload.

Only the project's own folders are watched: the state directory and virtual environments hold
thousands of files that change all the time, and filtering them out after the kernel has reported
each change would cost more than the functions do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

import trio
from watchfiles import Change, awatch

IGNORED = frozenset(("__pycache__", "node_modules", "venv", "env", "build", "dist"))
SUFFIXES = frozenset((".py", ".ts", ".sql", ".toml"))
NAMES = frozenset((".env",))
DEBOUNCE_MS = 400
STEP_MS = 50

Changes = set[tuple[Change, str]]
Report = Callable[[Changes], None]


async def watch_project(
    project_dir: Path,
    on_change: Callable[[tuple[str, ...]], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `on_change` with the changed files until cancelled; started once all are watched.

    `project_dir` is an absolute path without links. Files are named relative to it, sorted, all
    changes of a moment in one call. What a new folder holds counts as changed.
    """
    watches: dict[str, trio.CancelScope] = {}

    def report(changes: Changes) -> None:
        _report(changes, project_dir, on_change)

    def watch(folder: Path, *, is_new: bool) -> trio.Event:
        begun, scope = trio.Event(), trio.CancelScope()
        watches[str(folder)] = scope
        nursery.start_soon(_watch_folder, folder, scope, begun, report)
        if is_new:
            nursery.start_soon(_report_inside, folder, begun, report)
        return begun

    def follow(changes: Changes) -> None:
        report(changes)
        # One that was removed and made anew is another folder, which nobody watches.
        for change, path in changes:
            if change is not Change.modified and path in watches:
                watches.pop(path).cancel()
        for folder in watched_folders(project_dir):
            if str(folder) not in watches:
                watch(folder, is_new=True)

    async with trio.open_nursery() as nursery:
        started = [watch(folder, is_new=False) for folder in watched_folders(project_dir)]
        started.append(trio.Event())
        nursery.start_soon(partial(_watch, project_dir, started[-1], follow, recursive=False))
        for begun in started:
            await begun.wait()
        task_status.started()


def watched_folders(project_dir: Path) -> list[Path]:
    """Return the project's own folders: neither hidden, nor an environment, nor generated."""
    return sorted(
        path
        for path in project_dir.iterdir()
        if path.is_dir()
        and not path.name.startswith(".")
        and path.name not in IGNORED
        and not (path / "pyvenv.cfg").exists()
    )


def is_watched(path: Path) -> bool:
    """Whether a change of this file (relative to the project) calls for a reload."""
    folders = path.parts[:-1]
    if any(folder in IGNORED or folder.startswith(".") for folder in folders):
        return False
    return path.name in NAMES or (path.suffix in SUFFIXES and not path.name.startswith("."))


async def _watch_folder(
    folder: Path, scope: trio.CancelScope, begun: trio.Event, report: Report
) -> None:
    with scope:
        try:
            await _watch(folder, begun, report, recursive=True)
        except* FileNotFoundError:
            begun.set()  # it is gone again


async def _report_inside(folder: Path, begun: trio.Event, report: Report) -> None:
    """Report what was written before anyone watched: looked for once somebody does."""
    await begun.wait()
    # Unlike rglob, walk does not mind that a folder in it is gone again.
    walked = os.walk(folder)
    report({(Change.added, os.path.join(at, name)) for at, _, names in walked for name in names})


async def _watch(folder: Path, begun: trio.Event, report: Report, *, recursive: bool) -> None:
    """Report the changes in a folder; `begun` is set once none is missed any more."""
    stop = _Stop(begun)
    watcher = awatch(
        folder,
        watch_filter=None,
        recursive=recursive,
        debounce=DEBOUNCE_MS,
        step=STEP_MS,
        stop_event=stop,  # type: ignore[arg-type]
        ignore_permission_denied=True,
    )
    async with trio.open_nursery() as nursery, aclosing(watcher) as batches:
        nursery.start_soon(_set_when_cancelled, stop)
        async for changes in batches:
            report(changes)


class _Stop:
    """What watchfiles asks whether to end, over and over from its thread, once it is watching."""

    def __init__(self, begun: trio.Event) -> None:
        self._begun = begun
        self._token = trio.lowlevel.current_trio_token()
        self._is_set = self._was_asked = False

    def set(self) -> None:
        """End it."""
        self._is_set = True

    def is_set(self) -> bool:
        """Whether to end."""
        if not self._was_asked:
            self._was_asked = True
            self._token.run_sync_soon(self._begun.set)
        return self._is_set


async def _set_when_cancelled(stop: _Stop) -> None:
    # watchfiles waits in a thread, which sees a stop at once but a cancellation only later.
    try:
        await trio.sleep_forever()
    finally:
        stop.set()


def _report(
    changes: Changes, project_dir: Path, on_change: Callable[[tuple[str, ...]], None]
) -> None:
    paths = (Path(path).relative_to(project_dir) for _, path in changes)
    changed = tuple(sorted({str(path) for path in paths if is_watched(path)}))
    if changed:
        on_change(changed)
