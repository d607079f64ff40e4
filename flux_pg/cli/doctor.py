"""`flux doctor`: everything that can be wrong with the database and the project, with its fix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click
import psycopg

from flux_pg.analysis.text import plural
from flux_pg.cli.checks import CHECKS, Check, Finding, Patient
from flux_pg.cli.queue_checks import check_queue
from flux_pg.cli.schedule_checks import check_schedules
from flux_pg.cli.scope import Scope, examples, scoped
from flux_pg.cli.session import open_database, translate

_MARKS = {"ok": "✓", "warning": "!", "failure": "✗", "unknown": "?"}


@click.command(epilog=examples("flux doctor", "flux doctor --json | jq '.findings[]'"))
@scoped()
def doctor(scope: Scope) -> None:
    """Check the database and the project, with a fix for each finding.

    Exits 0 if nothing is broken, 1 if something is or a check could not look, 4 if the database
    cannot be reached. Warnings alone exit 0.
    """
    with open_database(scope.settings) as database:
        patient = Patient(scope.settings, scope.project_dir, database)
        checks = (*CHECKS, check_queue, check_schedules)
        findings = [finding for check in checks for finding in _examine(check, patient)]
    broken = [f for f in findings if f.status in ("failure", "unknown")]
    if scope.as_json:
        scope.emit_json(
            {
                "schema": "flux.doctor/1",
                "healthy": not broken,
                "findings": [asdict(finding) for finding in findings],
            }
        )
    else:
        _show(scope, findings)
    if broken:
        click.get_current_context().exit(1)


def _examine(check: Check, patient: Patient) -> Iterator[Finding]:
    """Run one check; one that fails says so and lets the others go on."""
    try:
        yield from check(patient)
    except psycopg.OperationalError:
        raise
    except (psycopg.Error, OSError) as error:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        known = translate(error) if isinstance(error, psycopg.Error) else None
        message = known.message if known else str(error)
        fix = known.hint if known and "doctor" not in known.hint else ""
        yield Finding(name, "unknown", f"could not look: {message}", fix)


def _show(scope: Scope, findings: list[Finding]) -> None:
    style = scope.style
    paints = {"ok": style.good, "warning": style.warn, "failure": style.bad, "unknown": style.bad}
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark = paints[finding.status](_MARKS[finding.status])
        scope.emit(f"{mark} {finding.check:<{width}}  {finding.message}")
        if finding.fix:
            scope.emit(f"  {'':<{width}}  {style.dim('fix: ' + finding.fix)}")
    counts = {status: sum(f.status == status for f in findings) for status in _MARKS}
    parts = [
        plural(count, status) if status in ("warning", "failure") else f"{count} {status}"
        for status, count in counts.items()
        if count
    ]
    scope.note("\n" + ", ".join(parts))
