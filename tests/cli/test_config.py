"""Settings: precedence, origins, refusals with their place, secrets masked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flux_pg.config import load_settings, masked
from flux_pg.config_files import read_dotenv
from flux_pg.errors import UsageError
from tests.cli.conftest import Flux


def write(directory: Path, toml: str = "", dotenv: str = "") -> Path:
    (directory / "flux.toml").write_text(toml)
    if dotenv:
        (directory / ".env").write_text(dotenv)
    return directory


def test_each_source_wins_over_the_next(tmp_path: Path) -> None:
    write(tmp_path, "[server]\nport = 1001\n", "FLUX_PORT=1002\n")
    environment = {"FLUX_PORT": "1003"}
    settings = load_settings(tmp_path, {"port": 1004}, environment)
    assert (settings.port, str(settings.origins["port"])) == (1004, "flag (--port)")
    settings = load_settings(tmp_path, {"port": None}, environment)
    assert (settings.port, str(settings.origins["port"])) == (1003, "environment (FLUX_PORT)")
    settings = load_settings(tmp_path, {}, {"FLUX_PORT": ""})
    assert (settings.port, str(settings.origins["port"])) == (1002, ".env (.env:1)")
    (tmp_path / ".env").unlink()
    settings = load_settings(tmp_path, {}, {})
    assert (settings.port, str(settings.origins["port"])) == (1001, "flux.toml (flux.toml:2)")
    (tmp_path / "flux.toml").unlink()
    settings = load_settings(tmp_path, {}, {})
    assert (settings.port, str(settings.origins["port"])) == (4000, "default")


@pytest.mark.parametrize(
    ("toml", "message", "hint"),
    [
        ("[server]\n\nport = 70000\n", "flux.toml:3: server.port must be a whole number", ""),
        ("[server]\nprot = 1\n", "flux.toml:2: there is no setting server.prot", "server.port"),
        ("port = 1\n", "flux.toml:1: there is no setting port", "server.port"),
        ("[sever]\nport = 1\n", "flux.toml:1: there is no setting sever", "server"),
        ("[server]\nport = \n", "flux.toml:2:8: invalid value", "toml.io"),
        ("[recording]\ndurability = 'lax'\n", 'must be "normal" or "strict"', ""),
        ("[server]\nmax_body = '10 parsecs'\n", "must be a size in bytes", ""),
        ("[server]\nrequest_timeout = -1\n", "must be a time", ""),
        ("[database]\ntracked_schemas = 3\n", "must be a list of names", ""),
        ("[database]\nurl = 'nonsense'\n", "must be a connection string", ""),
        ("[server]\nworkers = true\n", "must be a whole number from 1 to 256, not True", ""),
    ],
)
def test_a_bad_file_is_refused_with_its_place(
    tmp_path: Path, toml: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(write(tmp_path, toml), {}, {})
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_units_are_understood(tmp_path: Path) -> None:
    toml = "[server]\nmax_body = '2MiB'\nrequest_timeout = '1.5m'\ndrain_timeout = 7\n"
    settings = load_settings(write(tmp_path, toml), {}, {"FLUX_REDACT": "iban, ssn"})
    assert settings.max_body_bytes == 2 << 20
    assert (settings.request_timeout_s, settings.drain_timeout_s) == (90.0, 7.0)
    assert settings.redact == ("iban", "ssn")


def test_dotenv_is_read_as_shells_do(tmp_path: Path) -> None:
    write(
        tmp_path,
        dotenv="A=1 # note\nexport B='x # y'\nC=\"a\\nb\"\nD=\nE=a#b\n# F=1\n\nG = two words \n",
    )
    found = {name: value for name, (value, _) in read_dotenv(tmp_path / ".env").items()}
    assert found == {"A": "1", "B": "x # y", "C": "a\nb", "D": "", "E": "a#b", "G": "two words"}
    assert load_settings(tmp_path, {}, {}).dotenv == found


def test_a_bad_dotenv_line_is_named_but_not_shown(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(write(tmp_path, dotenv="A=1\nhunter2 is the password\n"), {}, {})
    assert caught.value.message.startswith(".env:2:")
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_libpq_variables_name_a_database_only_with_a_target(tmp_path: Path) -> None:
    write(tmp_path)
    assert load_settings(tmp_path, {}, {"PGUSER": "me", "PGPASSWORD": "x"}).database_url is None
    settings = load_settings(tmp_path, {}, {"PGHOST": "/run/a b", "PGUSER": "me", "PGPORT": "1"})
    assert settings.database_url == "host='/run/a b' port=1 user=me"
    assert str(settings.origins["database_url"]) == "environment (PGHOST, PGPORT, PGUSER)"
    both = {"PGHOST": "a", "DATABASE_URL": "postgresql://b/c"}
    assert load_settings(tmp_path, {}, both).database_url == "postgresql://b/c"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://u:pw@h:1/d?sslmode=no", "postgresql://u:********@h:1/d?sslmode=no"),
        ("postgresql://u@h/d?password=pw", "postgresql://u@h/d?password=********"),
        ("host=h password='p \\' w' user=u", "host=h password=******** user=u"),
        ("host=h user=u", "host=h user=u"),
    ],
)
def test_passwords_are_masked(given: str, shown: str) -> None:
    assert masked(given) == shown


def test_config_shows_values_and_origins_but_no_password(
    bare: Flux, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "[server]\nport = 1001\n")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hunter2@h/d")
    shown = bare("config")
    assert shown.code == 0
    assert re.search(r"^server\.port +1001 ", shown.out, re.M)
    assert "flux.toml (flux.toml:2)" in shown.out
    assert "environment (DATABASE_URL)" in shown.out
    document = json.loads(bare("config", "--json").out)
    assert document["schema"] == "flux.config/1"
    by_key = {entry["key"]: entry for entry in document["settings"]}
    assert by_key["server.port"]["value"] == 1001
    assert by_key["server.port"]["source"] == "flux.toml"
    assert "hunter2" not in shown.out + shown.err + json.dumps(document)
