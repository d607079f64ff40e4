"""Tells the supervisor that files of the project changed, so that `flux dev` can reload.

Only the project's own folders are watched: the state directory and virtual environments hold
thousands of files that change all the time, and filtering them out after the kernel has reported
each change would cost more than the functions do.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import trio
from watchfiles import Change, awatch

IGNORED = frozenset(("__pycache__", "node_modules", "venv", "env", "build", "dist"))
SUFFIXES = frozenset((".py", ".ts", ".sql", ".toml"))
NAMES = frozenset((".env",))
DEBOUNCE_MS = 400
STEP_MS = 50

Changes = set[tuple[Change, str]]


async def watch_project(
    project_dir: Path,
    on_change: Callable[[tuple[str, ...]], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `on_change` with the changed files until cancelled.

    `project_dir` is an absolute path without links. Files are named relative to it, sorted, all
    changes of a moment in one call. New folders are watched from the moment they appear.
    """
    while True:
        folders = watched_folders(project_dir)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_set_when_cancelled, stop)
            for folder in folders:
                nursery.start_soon(_watch, folder, stop, project_dir, on_change)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            async with aclosing(_changes(project_dir, stop, recursive=False)) as batches:
                async for changes in batches:
                    _report(changes, project_dir, on_change)
                    if watched_folders(project_dir) != folders:
                        break
            nursery.cancel_scope.cancel()
        # What is in a new folder already was written before anyone watched it.
        appeared = set(watched_folders(project_dir)).difference(folders)
        # Unlike rglob, walk does not mind that a folder in it is gone again.
        walked = (entry for one in appeared for entry in os.walk(one))
        inside = {os.path.join(folder, name) for folder, _, names in walked for name in names}
        _report({(Change.added, path) for path in inside}, project_dir, on_change)


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


async def _watch(
    folder: Path,
    stop: trio.Event,
    project_dir: Path,
    on_change: Callable[[tuple[str, ...]], None],
) -> None:
    async with aclosing(_changes(folder, stop, recursive=True)) as batches:
        async for changes in batches:
            _report(changes, project_dir, on_change)


async def _changes(
    folder: Path, stop: trio.Event, *, recursive: bool
) -> AsyncGenerator[Changes, None]:
    watcher = awatch(
        folder,
        watch_filter=None,
        recursive=recursive,
        debounce=DEBOUNCE_MS,
        step=STEP_MS,
        stop_event=stop,
        ignore_permission_denied=True,
    )
    async with aclosing(watcher):
        async for changes in watcher:
            yield changes


async def _set_when_cancelled(stop: trio.Event) -> None:
    # watchfiles waits in a thread, which sees this event at once but a cancellation only later.
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
