"""Where a blocked loop is: the line of the user's code that does not give way.

The worker registered `faulthandler` on a signal. Its handler runs in C, so it answers while the
interpreter is busy in `while True: pass`, and writes every thread's stack into a shared page.
"""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from pathlib import Path

import trio

from flux_pg.runtime.worker import STACK_SIGNAL

_ANSWER_TIMEOUT_S = 2.0
_SETTLED_S = 0.1
"""A dump that has not grown for so long is whole: on a busy machine its writer may pause."""

_FRAME = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<function>.*)$', re.M)
_LOOP = os.path.join("trio", "_core", "_run.py")


async def find_place(pid: int, stack: int, project_dir: Path) -> str:
    """Ask a process for its stacks and return where its loop is.

    Args:
        pid: A worker that has registered the handler.
        stack: The descriptor of the page that it writes to.
        project_dir: Whose code counts as the user's.

    Returns:
        `file:line in function`, the file relative to the project; or that the process is stopped;
        empty if it did not answer.
    """
    if _is_stopped(pid):
        return "a stopped process (SIGSTOP)"
    os.truncate(stack, 0)
    os.lseek(stack, 0, os.SEEK_SET)
    with suppress(ProcessLookupError):
        os.kill(pid, STACK_SIGNAL)
    return parse_place(await _read_settled(stack), project_dir)


def parse_place(dump: str, project_dir: Path) -> str:
    """Find the loop's thread in what faulthandler wrote, and in it the user's innermost line.

    If none of the lines is the user's, it is the innermost one: a blocking call of a library.
    """
    threads = [
        frames
        for block in dump.split("\n\n")
        if (frames := [match.groupdict() for match in _FRAME.finditer(block)])
    ]
    if not threads:
        return ""
    # A recursion deeper than faulthandler goes hides Trio's frames; the main thread comes last.
    loops = [frames for frames in threads if any(one["file"].endswith(_LOOP) for one in frames)]
    frames = (loops or threads)[-1]
    own = [frame for frame in frames if Path(frame["file"]).is_relative_to(project_dir)]
    frame = (own or frames)[0]
    path = Path(frame["file"])
    shown = path.relative_to(project_dir) if own else path
    return f"{shown}:{frame['line']} in {frame['function']}"


async def _read_settled(stack: int) -> str:
    size, settled_at = 0, math.inf
    with trio.move_on_after(_ANSWER_TIMEOUT_S):
        while trio.current_time() < settled_at:
            if (now_size := os.fstat(stack).st_size) != size:
                size, settled_at = now_size, trio.current_time() + _SETTLED_S
            await trio.sleep(0.02)
    return os.pread(stack, 1 << 20, 0).decode(errors="replace")


def _is_stopped(pid: int) -> bool:
    # The state follows the command's name, which is in parentheses and may hold some itself.
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state in "Tt"
