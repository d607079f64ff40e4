"""The command line as a user has it, on a real database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flux_pg.cli.door import run
from tests.conftest import Database


@dataclass(frozen=True)
class Result:
    """What one command did."""

    code: int
    out: str
    err: str


Flux = Callable[..., Result]


@pytest.fixture
def bare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Flux:
    """Run `flux` in this process, in an empty directory without any setting."""
    for name in list(os.environ):
        if name.startswith(("PG", "FLUX_", "DATABASE_URL", "NO_COLOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        code = run(arguments)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def flux(bare: Flux, database18: Database, monkeypatch: pytest.MonkeyPatch) -> Flux:
    """Run `flux` in this process against a fresh database, as the runtime's login."""
    monkeypatch.setenv("DATABASE_URL", database18.app)
    monkeypatch.setenv("FLUX_ADMIN_URL", database18.admin)
    return bare


@pytest.fixture
def conn(database18: Database) -> Any:
    """A superuser's connection to the database that `flux` uses."""
    with psycopg.connect(database18.superuser, autocommit=True) as connection:
        yield connection


def spawn(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `flux` as a process of its own."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "FLUX_", "DATABASE_URL", "NO_COLOR"))
    }
    return subprocess.Popen(
        [sys.executable, "-m", "flux_pg", *arguments],
        cwd=cwd,
        env={**clean, "PYTHONUNBUFFERED": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
