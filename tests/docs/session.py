"""Runs the steps of a page as its reader would: real `flux`, the embedded Postgres, one folder.

A page says port 4000. Here `flux dev` and `flux serve` take a free one (`FLUX_PORT=0`); it is put
into commands and taken out of outputs again.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from tests.docs.compare import Names, Unequal, check, trimmed
from tests.docs.page import Step, read_steps

REPOSITORY = Path(__file__).parents[2]
COMMAND_LIMIT_S = 120.0
DEV_LIMIT_S = 120.0
_SERVES = re.compile(r"(?:^|&& )(flux (?:dev|serve)\b[^&|]*)$")
_URL = re.compile(r"http://(?:localhost|127\.0\.0\.1):(\d+)")


class Terminal:
    """A command that goes on in its own terminal; its output is collected as it comes."""

    def __init__(self, command: str, cwd: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=cwd,
            env={**environment, "FLUX_PORT": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._shown = 0
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def port(self) -> str:
        """The port it serves; waits for the line that names it."""

        def found() -> str | None:
            return next((m[1] for line in self._lines if (m := _URL.search(line))), None)

        with self._news:
            self._news.wait_for(lambda: found() or self._ended, DEV_LIMIT_S)
            port = found()
        assert port is not None, "flux dev named no port:\n" + "\n".join(self._lines)
        return port

    def expect(self, expected: list[str], names: Names, port: str, patience_s: float) -> list[str]:
        """Wait until what came since the last call is what is expected.

        Returns:
            What was shown, with the page's port.

        Raises:
            Unequal: It was not within the time limit.
        """

        def matches() -> bool:
            shown = _with_page_port(self._lines[self._shown :], port)
            try:
                check(expected, shown, Names(dict(names.real)))
            except Unequal:
                return False
            return True

        with self._news:
            self._news.wait_for(lambda: matches() or self._ended, patience_s)
            shown = _with_page_port(self._lines[self._shown :], port)
            self._shown = len(self._lines)
        _check(expected, shown, names)
        return shown

    def ready(self) -> None:
        """Wait until it serves."""
        with self._news:
            self._news.wait_for(
                lambda: any("ready in" in line for line in self._lines) or self._ended, DEV_LIMIT_S
            )
            assert not self._ended, "flux dev ended:\n" + "\n".join(self._lines)

    def close(self) -> None:
        """Press Ctrl-C; it has to end well."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(COMMAND_LIMIT_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join(COMMAND_LIMIT_S)
            assert self._process.stdout is not None
            self._process.stdout.close()
        assert self._process.returncode in (0, 130), self._process.returncode
        assert not any("Traceback" in line for line in self._lines), "\n".join(self._lines)


class Session:
    """One reader at one page; a context that ends what the page left running.

    Args:
        folder: An empty folder, the reader's home and place of work.
        in_clone: Whether the reader sits in a clone of Flux, with its examples, and not in an
            empty folder: so the README is read.
        patience_s: How long an output may take to become the page's.
    """

    def __init__(
        self, folder: Path, *, in_clone: bool = False, patience_s: float = COMMAND_LIMIT_S
    ) -> None:
        home = folder / "home"
        home.mkdir()
        # On a terminal curl shows no progress; here it has to be told.
        (home / ".curlrc").write_text("silent\nshow-error\n")
        (home / ".gitconfig").write_text(
            "[user]\nname = Ann Lee\nemail = ann@example.com\n[init]\ndefaultBranch = main\n"
        )
        self._cwd = folder / "work"
        self._cwd.mkdir()
        self._pwd = folder / "pwd"
        self._environment = _environment(home)
        self.names = Names()
        self._terminal: Terminal | None = None
        self._port = "4000"
        self._patience_s = patience_s
        if in_clone:
            self._make_clone()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal is not None:
            self._terminal.close()

    def run(self, step: Step) -> list[str]:
        """Do one step.

        Returns:
            What it showed, with the page's port.

        Raises:
            Unequal: The output is not the page's.
        """
        if step.kind == "file":
            name, text = step.text.split("\n", 1)
            (self._cwd / name).parent.mkdir(parents=True, exist_ok=True)
            (self._cwd / name).write_text(text)
            return []
        if step.kind == "dev":
            assert self._terminal is not None and step.expected is not None
            return self._terminal.expect(step.expected, self.names, self._port, self._patience_s)
        command = self.names.translate(step.text)
        if step.kind == "sql":
            return self._compare(step, self._query(command))
        serves = _SERVES.search(command)
        if serves is None:
            return self._compare(step, self._shell(command))
        if before := command[: serves.start()].rstrip("& "):
            self._shell(before)
        return self._start(serves[1], step)

    def _make_clone(self) -> None:
        unwanted = shutil.ignore_patterns(".flux", "__pycache__")
        shutil.copytree(REPOSITORY / "examples", self._cwd / "examples", ignore=unwanted)
        activate = self._cwd / ".venv" / "bin" / "activate"
        activate.parent.mkdir(parents=True)
        activate.write_text("")  # flux is on the PATH already
        (self._cwd / ".gitignore").write_text(".venv/\n.flux/\n")
        self._shell("git init --quiet && git add -A && git commit --quiet -m 'Add the orders'")

    def _compare(self, step: Step, shown: list[str]) -> list[str]:
        if step.expected is not None:
            _check(step.expected, shown, self.names)
        return shown

    def _start(self, command: str, step: Step) -> list[str]:
        if self._terminal is not None:
            self._terminal.close()
        self._terminal = Terminal(command, self._cwd, self._environment)
        self._port = self._terminal.port()
        self._terminal.ready()
        return self._terminal.expect(step.expected or [], self.names, self._port, self._patience_s)

    def _shell(self, command: str, given: str = "") -> list[str]:
        command = command.replace("localhost:4000", f"localhost:{self._port}")
        done = subprocess.run(
            ["bash", "-c", f"{command}\nstatus=$?; pwd > {self._pwd}; exit $status"],
            cwd=self._cwd,
            env=self._environment,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        self._cwd = Path(self._pwd.read_text().strip())
        assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout}"
        assert "Traceback" not in done.stdout, done.stdout
        return _with_page_port(done.stdout.splitlines(), self._port)

    def _query(self, text: str) -> list[str]:
        return self._shell("flux db psql -- --no-psqlrc --quiet", text + "\n")


def _environment(home: Path) -> dict[str, str]:
    """The reader's shell: nothing of ours in it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        # On CI pytest shortens nothing.
        if name not in ("CI", "BUILD_NUMBER")
        and not name.startswith(("PG", "FLUX_", "DATABASE_URL", "NO_COLOR", "GIT_", "PYTEST"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {
        **kept, "PATH": path, "HOME": str(home), "COLUMNS": "100", "TZ": "UTC", "PGTZ": "UTC",
        "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip


def _check(expected: list[str], shown: list[str], names: Names) -> None:
    try:
        check(expected, shown, names)
    except Unequal as error:
        error.shown = shown
        raise


def _with_page_port(lines: list[str], port: str) -> list[str]:
    return [line.rstrip().replace(f"localhost:{port}", "localhost:4000") for line in lines]


def run_page(page: Path, folder: Path) -> None:
    """Run a page in an empty folder; every output has to be the page's.

    Raises:
        AssertionError: One is not, naming the line of the page.
    """
    with Session(folder, in_clone=page.name == "README.md") as session:
        for step in read_steps(page):
            try:
                session.run(step)
            except Unequal as error:
                raise AssertionError(f"line {step.line + 1}: {step.text}\n{error}") from None


def rewrite_page(page: Path, folder: Path) -> None:
    """Run a page and put what is shown now where it differs from what the page shows."""
    lines = page.read_text().splitlines()
    shift = 0
    with Session(folder, in_clone=page.name == "README.md", patience_s=5.0) as session:
        for step in read_steps(page):
            try:
                session.run(step)
            except Unequal as error:
                first = step.first + shift
                shown = session.names.adopt(trimmed(error.shown))
                lines[first : first + step.count] = shown
                shift += len(shown) - step.count
    page.write_text("\n".join(lines) + "\n")
