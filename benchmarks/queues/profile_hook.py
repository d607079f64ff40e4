"""Copied among the functions of the measured project: profiles the worker that loads it."""

import atexit
import cProfile
import os
from pathlib import Path

_profile = cProfile.Profile()


def _save() -> None:
    _profile.disable()
    _profile.dump_stats(f"profile-{os.getpid()}.pstats")


if not Path("nothing-to-profile").exists():
    atexit.register(_save)
    _profile.enable()
