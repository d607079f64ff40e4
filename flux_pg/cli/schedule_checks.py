"""The checks of `flux doctor` that look at the schedules."""

from __future__ import annotations

from collections.abc import Iterator

from flux_pg.analysis.queue import span_of_time
from flux_pg.analysis.text import clean, fit, plural
from flux_pg.cli.checks import Finding, Patient

_OVERDUE_S = 60
_SHOWN = 5

_COUNTS = """
select count(*) as schedules, count(*) filter (where s.paused) as paused from flux.schedules as s
"""
_BROKEN = """
select s.name, s.error, count(*) over () as times from flux.schedules as s
where s.error is not null order by s.name limit %s
"""
_OVERDUE = """
select s.name, count(*) over () as times,
    extract(epoch from clock_timestamp() - s.next_at)::float8 as late_s
from flux.schedules as s
where not s.paused and s.error is null
    and s.next_at < clock_timestamp() - %s * interval '1 second'
order by s.next_at, s.name limit %s
"""


def check_schedules(patient: Patient) -> Iterator[Finding]:
    """Can each schedule be fired, and does somebody fire them?"""
    broken = patient.all(_BROKEN, _SHOWN)
    for row in broken:
        name, error = clean(row["name"]), fit(clean(row["error"]), 200)
        yield Finding(
            "schedules", "failure", f"{name} was not fired when it was due: {error}",
            f"`flux schedule show {name}` says where it is declared; correct it there.",
        )  # fmt: skip
    if broken and broken[0]["times"] > len(broken):
        count = broken[0]["times"] - len(broken)
        verb, more = "was" if count == 1 else "were", plural(count, "other schedule")
        yield Finding(
            "schedules", "failure", f"nor {verb} {more}", "`flux schedule list` shows them."
        )
    overdue = patient.all(_OVERDUE, _OVERDUE_S, 1)
    if overdue:
        first = overdue[0]
        others = first["times"] - 1
        more = f", and {plural(others, 'other')} that came later" if others else ""
        yield Finding(
            "schedules", "warning",
            f"{clean(first['name'])} is due for {span_of_time(first['late_s'])} and nobody has "
            f"fired it{more}",
            "Start a worker: `flux serve`, with queue.jobs on. It makes up for what was missed as "
            "each schedule says.",
        )  # fmt: skip
    if not broken and not overdue:
        row = patient.one(_COUNTS)
        paused = f", {row['paused']} of them paused" if row["paused"] else ""
        text = plural(row["schedules"], "schedule") if row["schedules"] else "no schedule"
        yield Finding("schedules", "ok", f"{text}{paused}; none is overdue or broken")
