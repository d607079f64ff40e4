"""`flux test export ID`: a recorded request as a pytest file."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

from flux_pg.analysis.text import short_id
from flux_pg.cli.scope import Scope, examples, scoped
from flux_pg.cli.selectors import request_argument
from flux_pg.cli.session import connect, conninfo_of
from flux_pg.config import Settings
from flux_pg.errors import FluxError, UsageError

if TYPE_CHECKING:
    from flux_pg.replay.export import Found
    from flux_pg.replay.export_rows import Fixture
    from flux_pg.replay.source import RecordedRun

_REQUEST = "select flux.resolve_request(%s)::text as id"


@click.group(epilog=examples("flux test export @last-error -o tests/test_checkout.py"))
def test() -> None:
    """Turn recorded requests into tests."""


@test.command(
    epilog=examples(
        "flux test export @last-error",
        "flux test export 8f3a2c1d -o tests/test_checkout.py",
        "flux test export 8f3a2c1d -o tests/test_checkout.py --force",
        "flux test export 8f3a2c1d --json | jq -r .source",
    )
)
@request_argument
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write it here; default standard output.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option("--no-check", is_flag=True, help="Do not run it before it is written.")
@scoped()
def export(
    scope: Scope, request: str, output: Path | None, force: bool, no_check: bool
) -> None:  # fmt: skip
    """Write a recorded request as a pytest file.

    The file holds the rows that the request read or changed, as they were just before it, and what
    the outside answered (HTTP, clock, chance, environment). Of a request that failed it asserts
    that it ends well now; of another one that it answers and changes the same. It is run once
    before it is written, and what came of that is told.

    Exits 0 if the file is written, whether it passes on this code or not.
    """
    if output is not None and output.exists() and not force:
        raise UsageError(
            f"{output} is there already", "Give --force to write over it.", code="exists"
        )
    if output is not None and not output.parent.is_dir():
        folder = str(output.parent)
        raise UsageError(
            f"there is no folder {folder}", f"mkdir -p {shlex.quote(folder)}", code="no-folder"
        )
    settings = scope.project_settings
    with conninfo_of(settings) as conninfo, connect(conninfo) as database:
        from flux_pg.replay.export import find
        from flux_pg.replay.source import load_request
        from flux_pg.testing.database import join_server

        row = database.execute(_REQUEST, (request,)).fetchone()
        assert row is not None
        run = load_request(database, row["id"])
        # For both steps: to start it takes longer than either.
        join_server(settings.state_dir)
        found = trio.run(find, settings, conninfo, run)
    made = _make(settings, run, found, check=not no_check)
    _write(scope, run, made, output)


@dataclass(frozen=True)
class Made:
    """The file, and what came of it on this code."""

    source: str
    verdict: str | None
    told: str
    notes: list[str]


def _make(settings: Settings, run: RecordedRun, found: Found, *, check: bool) -> Made:
    """Write the test, with few rows if these are enough."""
    from flux_pg.replay.export_text import expect, write_test

    plain = expect(run, found.mutations)
    source = write_test(run, found.fixture, plain)
    if not check:
        return Made(source, None, "", found.fixture.notes)
    first = _try(settings, run, found, found.fixture, source)
    if first.verdict == "as recorded" or found.wide.rows == found.fixture.rows:
        return first
    second = _try(settings, run, found, found.wide, write_test(run, found.wide, plain))
    return second if second.verdict == "as recorded" else first


def _try(settings: Settings, run: RecordedRun, found: Found, fixture: Fixture, source: str) -> Made:
    """Run the file's request on the code that is here, and set apart what is volatile."""
    from flux_pg.replay.export_text import describe_change, expect, is_failure, write_test

    # The very text is tried. It is literals and names of flux_pg.testing, whatever was recorded.
    space: dict[str, Any] = {}
    exec(compile(source, "<exported>", "exec"), space)
    try:
        came = space["REQUEST"].run(settings.project_dir)
    except (FluxError, AssertionError) as error:
        return Made(source, "does not run", f"it does not run on this code: {error}", fixture.notes)
    if is_failure(run):
        verdict, told = _judge_failure(run, came)
        return Made(source, verdict, told, fixture.notes)
    changes = [
        describe_change(one.op, one.table, one.key, one.before, one.after)[1]
        for one in came.changes
    ]
    verdict, told = _judge_success(run, found, came)
    mask = {"response": came.response, "changes": changes} if verdict == "as recorded" else None
    source = write_test(run, fixture, expect(run, found.mutations, mask))
    return Made(source, verdict, told, fixture.notes)


def _judge_failure(run: RecordedRun, came: Any) -> tuple[str, str]:
    from flux_pg.replay.oracle import is_same_failure

    if is_same_failure(run, came.result):
        return "as recorded", "it fails on this code as it did then"
    if came.outcome == "ok":
        return "passes", "it passes on this code: the failure is gone"
    return "fails otherwise", f"it fails on this code in another way: {came}"


def _judge_success(run: RecordedRun, found: Found, came: Any) -> tuple[str, str]:
    from flux_pg.replay.compare import compare_replay
    from flux_pg.replay.engine import ReplayResult
    from flux_pg.replay.source import RecordedRun
    from flux_pg.replay.withheld import blind

    # The marks of secrets were made with one key there and another here.
    compared = compare_replay(
        blind(run, RecordedRun), blind(came.result, ReplayResult), blind(found.mutations, list)
    )
    if compared.verdict == "same":
        return "as recorded", "it passes on this code"
    if came.outcome != run.outcome:
        return "differs", f"it fails on this code: {came}"
    where = compared.differences[0][0] if compared.differences else compared.verdict
    return "differs", f"it does something else on this code: {where}"


def _write(scope: Scope, run: RecordedRun, made: Made, output: Path | None) -> None:
    if output is not None:
        output.write_text(made.source, encoding="utf-8")
    if scope.as_json:
        scope.emit_json(
            {
                "schema": "flux.test/1",
                "request_id": run.request_id,
                "function": run.function,
                "file": None if output is None else str(output),
                "check": made.verdict,
                "message": made.told,
                "notes": made.notes,
                "source": made.source,
            }
        )
        return
    if output is None:
        scope.emit(made.source.rstrip("\n"))
    for note in [*made.notes, *([made.told] if made.told else [])]:
        scope.note(note)
    if output is not None:
        scope.note(f"wrote {output}")
        scope.hint(f"pytest {output}")
    else:
        scope.hint(f"flux test export {short_id(run.request_id)} -o tests/test_{run.function}.py")
