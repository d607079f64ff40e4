"""Copied among the functions of the measured project: counts the calls of its functions."""

import atexit
import cProfile
import os

_profile = cProfile.Profile()


def _save() -> None:
    _profile.disable()
    _profile.dump_stats(f"profile-{os.getpid()}.pstats")


atexit.register(_save)
_profile.enable()
