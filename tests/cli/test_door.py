"""The conventions that every command keeps: exit codes, streams, JSON errors, no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from flux_pg.cli import door
from flux_pg.cli.root import _SUMMARIES, SECTIONS, cli
from flux_pg.errors import DatabaseUnreachable, DivergenceError, FluxError, NotFoundError
from tests.cli.conftest import Flux, spawn
from tests.cli.records import record
from tests.conftest import Database

NOWHERE = "postgresql://me:hunter2@127.0.0.1:1/none"


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


ALL = list(commands(cli))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_with_examples(bare: Flux, path: tuple[str, ...]) -> None:
    shown = bare(*path, "--help")
    assert shown.code == 0 and shown.err == ""
    assert f"Usage: flux {' '.join(path)}" in shown.out
    assert "Examples:\n  " in shown.out
    assert max(map(len, shown.out.splitlines())) <= 100


def test_the_help_page_lists_every_command(bare: Flux) -> None:
    shown = bare("--help")
    assert shown.code == 0
    for names in SECTIONS.values():
        for name in names:
            assert f"\n  {name} " in shown.out


def test_the_help_page_says_what_each_command_says_itself() -> None:
    context = click.Context(cli)
    for name, summary in _SUMMARIES.items():
        command = cli.get_command(context, name)  # type: ignore[attr-defined]
        assert command.help.split("\n\n")[0].replace("\n", " ") == summary


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["trace"], 2, "usage"),
        (["trace", "@last", "--nonsense"], 2, "usage"),
        (["traec", "@last"], 2, "usage"),
        (["trace", "@last"], 2, "no-project"),
        (["trace", "@last", "--database-url", NOWHERE], 4, "database-unreachable"),
        (["trace", "@last", "--database-url", "nonsense"], 2, "bad-setting"),
        (["trace", "@last", "-C", "/nonexistent"], 2, "usage"),
        (["tail", "--status", "teapot", "--database-url", NOWHERE], 2, "usage"),
        (["state", "blame", "users", "1", "--database-url", NOWHERE], 4, "database-unreachable"),
        (["doctor", "--database-url", NOWHERE], 4, "database-unreachable"),
        (["db", "status", "--database-url", NOWHERE], 4, "database-unreachable"),
        (["invoke", "hello"], 2, "no-project"),
        (["init"], 2, "usage"),
        (["init", "a b"], 2, "usage"),
    ],
)
def test_errors_have_their_code_in_both_forms(
    bare: Flux, arguments: list[str], code: int, error: str
) -> None:
    told = bare(*arguments)
    assert (told.code, told.out) == (code, "")
    assert told.err.startswith("flux: ")
    as_json = bare(*arguments, "--json")
    assert as_json.code == code and as_json.err == ""
    document = json.loads(as_json.out)["error"]
    assert set(document) == {"code", "message", "hint"}
    assert document["code"] == error
    assert document["message"] and document["message"] in told.err
    for text in (told.err, as_json.out):
        assert "Traceback" not in text and "hunter2" not in text


def test_not_found_and_ambiguous(flux: Flux, conn: Any) -> None:
    assert flux("why", "@last").code == 3
    assert flux("trace", "01a20300-0000-7000-8000-000000000001").code == 3
    assert flux("trace", "not-an-id").code == 2


def test_a_database_without_flux_says_what_to_do(
    bare: Flux, pg18: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = pg18.create_database(flux=False)
    try:
        for arguments in (
            ["trace", "@last"],
            ["tail", "--no-follow"],
            ["state", "blame", "t", "1"],
        ):
            shown = bare(*arguments, "--database-url", plain.superuser, "--json")
            assert shown.code == 4
            assert "flux db migrate" in json.loads(shown.out)["error"]["hint"]
    finally:
        pg18.drop_database(plain.name)


def test_an_unknown_bug_is_one_line_and_a_trace_only_on_demand(
    bare: Flux, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: Any) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("flux_pg.cli.about.describe", explode)
    shown = bare("config", "--database-url", NOWHERE)
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.startswith("flux: unexpected RuntimeError: first line\nhint: This is a bug")
    assert "Traceback" not in shown.err
    monkeypatch.setenv("FLUX_DEBUG", "1")
    assert "Traceback" in bare("config", "--database-url", NOWHERE).err


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([FluxError("x"), DivergenceError("x"), NotFoundError("x")], 3),
        ([DatabaseUnreachable("x"), NotFoundError("x")], 4),
        ([DivergenceError("x"), FluxError("x")], 5),
        ([RuntimeError("x"), FluxError("known")], 1),
        ([KeyboardInterrupt(), FluxError("x")], 130),
    ],
)
def test_of_several_errors_the_gravest_counts(
    bare: Flux, monkeypatch: pytest.MonkeyPatch, errors: list[BaseException], code: int
) -> None:
    def explode(*_: Any) -> None:
        raise BaseExceptionGroup("several", [BaseExceptionGroup("inner", errors)])

    monkeypatch.setattr("flux_pg.cli.about.describe", explode)
    shown = bare("config", "--database-url", NOWHERE)
    assert shown.code == code
    assert "Traceback" not in shown.err


def test_interrupts_are_quiet(flux: Flux, conn: Any, tmp_path: Path, database18: Any) -> None:
    process = spawn("tail", cwd=tmp_path, DATABASE_URL=database18.app)
    assert process.stderr is not None
    assert "waiting for requests" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, "", "")


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path, conn: Any, database18: Any) -> None:
    for _ in range(400):
        record(conn)
    done = subprocess.run(
        f"{sys.executable} -m flux_pg tail -n 400 --no-follow --json | head -n 1",
        shell=True, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "DATABASE_URL": database18.app},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["schema"] == "flux.request/1"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(bare: Flux, shell: str) -> None:
    shown = bare("completion", shell)
    assert shown.code == 0 and "_FLUX_COMPLETE" in shown.out


def test_completion_offers_commands_and_recent_requests(
    tmp_path: Path, conn: Any, database18: Any
) -> None:
    request = record(conn)

    def complete(words: str, count: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", "from flux_pg.cli import main; main()"],
            cwd=tmp_path, capture_output=True, text=True, check=True,
            env={**os.environ, "DATABASE_URL": database18.app, "_FLUX_COMPLETE": "bash_complete",
                 "COMP_WORDS": words, "COMP_CWORD": str(count)},
        ).stdout  # fmt: skip

    assert "plain,trace" in complete("flux tr", 1)
    offered = complete("flux trace ", 2)
    assert f"plain,{str(request)[-8:]}" in offered and "plain,@last-error" in offered


def test_a_terminal_gets_colour_unless_no_color(tmp_path: Path, conn: Any, database18: Any) -> None:
    record(conn)

    def in_terminal(**more: str) -> bytes:
        leader, follower = os.openpty()
        environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "PAGER")}
        process = subprocess.Popen(
            [sys.executable, "-m", "flux_pg", "trace", "@last"], cwd=tmp_path, stdin=follower,
            stdout=follower, stderr=follower,
            env={**environment, "DATABASE_URL": database18.app, "TERM": "xterm", **more},
        )  # fmt: skip
        os.close(follower)
        output = b""
        while True:
            try:
                chunk = os.read(leader, 65536)
            except OSError:
                break
            if not chunk:
                break
            output += chunk
        os.close(leader)
        assert process.wait(timeout=60) == 0
        return output

    assert b"\x1b[" in in_terminal()
    assert b"\x1b[" not in in_terminal(NO_COLOR="1")


def test_every_exit_code_has_a_place_in_the_order() -> None:
    kinds = [FluxError, *FluxError.__subclasses__()]
    assert {kind.exit_code for kind in kinds} <= set(door._EXIT_ORDER)


def test_a_reader_that_has_enough_is_no_failure(
    tmp_path: Path, database18: Database, conn: Any
) -> None:
    for _ in range(3):
        record(conn)
    process = spawn("tail", "--json", "-n", "3", cwd=tmp_path, DATABASE_URL=database18.app)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    record(conn)
    told = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), told) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is full")
def test_a_full_disk_is_told_plainly(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "flux_pg", "version"], cwd=tmp_path, stdout=full,
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "the output cannot be written: No space left on device" in done.stderr
    assert "bug" not in done.stderr and "Exception" not in done.stderr
