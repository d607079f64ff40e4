"""Schedules as the source declares them, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_pg.config import load_settings
from flux_pg.errors import LoadError, UsageError
from flux_pg.queue.declarations import collect_schedules, read_schedules
from flux_pg.records import Schedule
from flux_pg.runtime.control import decode_settings, encode_settings
from flux_pg.runtime.registry import load_functions

HEADER = "from datetime import datetime\nfrom flux_pg import Schedule, define_function\n\n"


def load(folder: Path, functions: str, config: str = ""):
    """The schedules of a project, by name, and its load errors."""
    (folder / "functions").mkdir()
    (folder / "functions" / "main.py").write_text(HEADER + functions)
    (folder / "flux.toml").write_text(config)
    registry = load_functions(folder)
    found, errors = collect_schedules(folder, registry.functions)
    return {one.name: one for one in found}, [*registry.errors, *errors]


def test_a_rule_alone_is_a_schedule_named_like_its_function(tmp_path):
    found, errors = load(
        tmp_path,
        """
@define_function(schedule="0 3 * * *")
async def report(ctx): ...

@define_function
async def other(ctx): ...
""",
    )
    assert errors == []
    (one,) = found.values()
    assert (one.name, one.function, one.cron) == ("report", "report", "0 3 * * *")
    assert (one.time_zone, one.payload, one.origin) == ("UTC", {}, "function")
    assert (one.overlap, one.missed) == ("skip", "once")


def test_a_schedule_object_a_dict_and_a_list_of_them(tmp_path):
    found, errors = load(
        tmp_path,
        """
@define_function(schedule=[
    Schedule("@daily", time_zone="Europe/Riga", payload={"days": 1}),
    {"cron": "@weekly", "name": "weekly", "payload": {"days": 7}, "overlap": "queue"},
])
async def report(ctx, days: int): ...
""",
    )
    assert errors == []
    assert set(found) == {"report", "weekly"}
    assert found["report"].time_zone == "Europe/Riga"
    assert found["weekly"].payload == {"days": 7}
    assert found["weekly"].overlap == "queue"


def test_schedules_in_flux_toml(tmp_path):
    config = """
[schedules.nightly]
function = "report"
cron = "30 3 * * *"
time_zone = "Europe/Riga"
payload = { days = 7 }
missed = "all"

[server]
port = 4100
"""
    found, errors = load(tmp_path, "@define_function\nasync def report(ctx, days): ...", config)
    assert errors == []
    (one,) = found.values()
    assert (one.name, one.function, one.origin) == ("nightly", "report", "config")
    assert (one.payload, one.missed) == ({"days": 7}, "all")
    assert load_settings(tmp_path, environ={}).port == 4100


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('cron = "@daily"', "schedule s: it names no function"),
        ('function = "report"', "schedule s: a schedule needs a cron rule"),
        ('function = "repport"\ncron = "@daily"', "there is no function repport"),
        ('function = "report"\ncron = "61 * * * *"', "minute: 61 is not within 0-59"),
        ('function = "report"\ncron = 5', "cron must be a text, not 5"),
        ('function = "report"\ncron = "@daily"\nzone = "UTC"', "a schedule has no zone"),
        ('function = "report"\ncron = "@daily"\ntime_zone = "Mars/X"', "no time zone Mars/X"),
        ('function = "report"\ncron = "@daily"\nmissed = "never"', "missed cannot be 'never'"),
        ('function = "report"\ncron = "@daily"\nname = "x"', "it has a name already"),
        ('function = "report"\ncron = "@daily"\npayload = 3', "payload is not a JSON object"),
    ],
)
def test_what_is_wrong_in_flux_toml_is_said_with_its_line(tmp_path, table, says):
    config = f"\n\n[schedules.s]\n{table}\n"
    found, errors = load(tmp_path, "@define_function\nasync def report(ctx): ...", config)
    assert found == {}
    (error,) = errors
    assert isinstance(error, LoadError)
    assert says in error.message
    assert (error.path, error.line) == ("flux.toml", 3)
    assert error.hint


def test_a_schedule_in_flux_toml_that_is_no_table(tmp_path):
    found, errors = load(tmp_path, "", '[schedules]\nnightly = "@daily"\n')
    (error,) = errors
    assert found == {}
    assert "schedule nightly: it must be a table" in error.message
    assert error.line == 2


def test_two_of_the_same_name_are_refused(tmp_path):
    found, errors = load(
        tmp_path,
        '\n@define_function(schedule=["@daily", "@weekly"])\nasync def report(ctx): ...\n',
        '[schedules.report]\nfunction = "report"\ncron = "@hourly"\n',
    )
    assert found["report"].cron == "@daily"
    assert [error.message for error in errors] == [
        "two schedules are named report",
        "schedule report: two schedules are named report",
    ]
    assert [(error.path, error.line) for error in errors] == [
        ("functions/main.py", 5),
        ("flux.toml", 1),
    ]


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ("61 * * * *", "minute: 61 is not within"),
        (5, "a schedule cannot be 5"),
        ({"time_zone": "UTC"}, "a schedule needs a cron rule"),
        ({"cron": "@daily", "tz": "UTC"}, "a schedule has no tz"),
        (Schedule("@daily", time_zone="Mars/X"), "there is no time zone Mars/X"),
        (Schedule("@daily", overlap="never"), "overlap cannot be 'never'"),
        (Schedule("@daily", payload={"at": object()}), "payload is not a JSON object"),
        (Schedule("@daily", payload=[1]), "list is no dict"),
        (["@daily", "@reboot"], "@reboot is no time"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused(declared, says):
    with pytest.raises(UsageError) as failed:
        read_schedules(declared)
    assert says in failed.value.message
    assert failed.value.hint


def test_a_bad_rule_on_a_function_is_a_load_error_at_its_line(tmp_path):
    _, errors = load(
        tmp_path,
        '\n@define_function(schedule="0 25 * * *")\nasync def report(ctx): ...\n',
    )
    (error,) = errors
    assert error.message == ("function report: schedule: hour: 25 is not within 0-23 (character 3)")
    assert (error.path, error.line) == ("functions/main.py", 5)


def test_a_payload_that_its_function_would_refuse_is_a_fault(tmp_path):
    found, errors = load(
        tmp_path,
        """
@define_function(schedule=Schedule("@daily", payload={"day": 7}))
async def report(ctx, days: int): ...
""",
        """
[schedules.month-end]
function = "report"
cron = "0 6 1 * *"
payload = { days = "31" }
""",
    )
    assert found == {}
    assert [(error.path, error.line) for error in errors] == [
        ("functions/main.py", 5), ("flux.toml", 2),
    ]  # fmt: skip
    assert errors[0].message == (
        "schedule report: the input of report is not valid: days: is required"
    )
    assert "days: Expected `int`, got `str`" in errors[1].message


def test_a_project_is_known_by_a_name_that_somebody_gave_it(tmp_path):
    assert load_settings(tmp_path, {}).named_project == ""
    (tmp_path / "flux.toml").write_text('[project]\nname = "shop"\n')
    settings = load_settings(tmp_path, {})
    assert settings.named_project == settings.project_name == "shop"
    assert decode_settings(encode_settings(settings)).named_project == "shop", "in a worker"
