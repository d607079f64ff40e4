"""The contenders' virtual environment, made on demand in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"


def ensure_python() -> Path:
    """Path of the Python that has the contenders; installs them the first time."""
    digest = hashlib.sha256(sys.version.encode() + REQUIREMENTS.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "flux-benchmarks" / f"queues-{digest}"
    python = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        print(f"installing the contenders into {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        subprocess.run(
            [
                *(str(python), "-m", "pip", "install", "--quiet"),
                *("--disable-pip-version-check", "-r", str(REQUIREMENTS)),
            ],
            check=True,
        )
        (folder / ".complete").touch()
    return python


def versions(python: Path, distributions: Iterable[str]) -> dict[str, str]:
    """Installed version of each distribution in the environment of `python`."""
    code = (
        "import importlib.metadata as m, json, sys;"
        "print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    )
    done = subprocess.run(
        [str(python), "-c", code, *distributions], capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found
