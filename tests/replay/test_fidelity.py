"""Recorded traffic runs again on the same code, and everything is as it was.

The seed is printed and can be given as FLUX_TEST_SEED; FLUX_TEST_SCALE makes the traffic longer.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import psycopg
import pytest

from flux_pg.replay.judging import Replayed
from tests.conftest import Database
from tests.replay.fidelity_mutants import HARMLESS, MUTANTS, mutate
from tests.replay.fidelity_oracle import Difference, Oracle
from tests.replay.fidelity_recording import Done, Recording, Way, record
from tests.replay.fidelity_service import open_service
from tests.replay.fidelity_traffic import NEEDING_SECRETS

SCALE = float(os.environ.get("FLUX_TEST_SCALE", "1"))
SEED = int(os.environ.get("FLUX_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
REQUESTS = max(1, round(150 * SCALE))

WAYS: tuple[Way, ...] = ("recorded", "chained", "isolated")

pytestmark = pytest.mark.timeout(180 + 180 * SCALE)


async def test_recorded_traffic_replays_as_it_was(
    tmp_path: Path, database18: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"FLUX_TEST_SEED={SEED} FLUX_TEST_SCALE={SCALE:g}")
    with open_service() as service:
        recording = await record(tmp_path, database18, service, SEED, REQUESTS)
    asked = service.asked
    monkeypatch.setenv("FIDELITY_SERVICE", service.url)
    check_answers(recording)
    requests = recording.requests()
    mix = [one for one in requests if one.function not in NEEDING_SECRETS]
    faults: list[str] = []
    for way in WAYS:
        done = await recording.replay(way, mix)
        print(*done.skipped, sep="\n", end="\n" * bool(done.skipped))
        faults += check_replays(recording, way, done)
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(one[:500] for one in faults[:25])
    mutate(recording.project)
    others = {*MUTANTS, *HARMLESS, *NEEDING_SECRETS}
    for way in WAYS if SCALE > 1 else WAYS[:2]:
        done = await recording.replay(way, [one for one in requests if one.function in others])
        secret = [one for one in done.replayed if one.run.function in NEEDING_SECRETS]
        check_secrets(way, secret)
        check_mutants(recording, way, [one for one in done.replayed if one not in secret])
    assert service.asked == asked


def check_answers(recording: Recording) -> None:
    """What the record says was answered is what clients got."""
    with psycopg.connect(recording.database.superuser) as conn:
        oracle = {one.request_id: one for one in Oracle(conn).recorded()}
    for answer in recording.answers:
        one = oracle[answer.request_id]
        assert (one.function, one.status_code) == (answer.function, answer.status)
        recorded = one.response
        if isinstance(recorded, dict) and "headers" in recorded:
            for name, value in recorded["headers"].items():
                assert answer.headers[name] == value or value.startswith("redacted:")
            recorded = recorded["body"]
        if answer.headers.get("content-type") == "application/json":
            sent = answer.body.replace(b"\\u0000", "\u2400\ufe0e".encode())
            assert recorded == json.loads(sent) or "redacted:" in str(recorded)


def check_replays(recording: Recording, way: Way, done: Done) -> list[str]:
    """Hold every replay against the record, by the oracle and by its verdict; what is wrong."""
    replayed = done.replayed
    with psycopg.connect(recording.database.superuser) as conn:
        oracle = Oracle(conn)
    requests = [one for one in oracle.recorded() if one.function not in NEEDING_SECRETS]
    assert {one.request_id for one in requests} == {one.run.request_id for one in replayed}
    same, unlike, faults = 0, [], []
    for one in replayed:
        found = differences(oracle, way, one)
        name = f"{one.run.function} {one.run.request_id}"
        if not found:
            same += 1
            # Behind an interleaved one that was not put right, times may be those of the replay.
            if one.verdict != "same" and not done.skipped:
                faults.append(f"{way}: {name} is called {one.verdict}: {told(one)}")
            continue
        cause = oracle.meanwhile(one.run.request_id) if way != "recorded" else ""
        if one.verdict == "same":
            faults.append(f"{way}: {name} is called same: {found[:2]}")
        unlike.append(f"{name} {one.verdict}: {cause} {found[:3]}")
        if not cause or one.verdict != "interleaved":
            faults.append(f"{way}: {name} ({one.verdict}) differs: {found[:3]}, {told(one)}")
    share = same / len(replayed)
    print(f"{way}: {same} of {len(replayed)} requests exactly as recorded ({share:.2%})")
    print(*(one[:500] for one in unlike), sep="\n")
    if len(unlike) > max(3, len(replayed) / 100):  # of few, a percent is less than one
        faults.append(f"{way}: only {share:.2%} are exactly as recorded")
    return faults


def check_secrets(way: Way, replayed: list[Replayed]) -> None:
    """A replay that needs what was redacted says so; without a database, to write is to pass on."""
    for one in replayed:
        first = one.result.first_divergence
        if one.run.function == "keep_secret" and way == "recorded":
            assert (one.verdict, first) == ("same", None)
        else:
            assert first is not None
            assert (one.verdict, first["reason"]) == ("diverged", "redacted")


def check_mutants(recording: Recording, way: Way, replayed: list[Replayed]) -> None:
    """Of other code no verdict is `same` where the oracle sees a difference, nor the other way."""
    with psycopg.connect(recording.database.superuser) as conn:
        oracle = Oracle(conn)
    faults, seen, unlike = [], set(), set()
    for one in replayed:
        function = str(one.run.function)
        # Lines move with every edit.
        found = [item for item in differences(oracle, way, one) if ".stack" not in item.place]
        seen.add(function)
        if found:
            unlike.add(function)
        if (one.verdict == "same") != (not found):
            faults.append(f"{function} is called {one.verdict}: {found[:3]}, {told(one)}")
        if found and function in HARMLESS:
            faults.append(f"{function} does the same, and differs: {found[:3]}")
    print(f"{way}: of {len(seen)} changed functions {len(unlike)} do something else")
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(one[:500] for one in faults[:25])


def differences(oracle: Oracle, way: Way, one: Replayed) -> list[Difference]:
    """What the oracle finds; that there was no replay is a difference too."""
    result = one.result
    if result.replay_id is None or result.first_divergence is not None:
        return [Difference("replay", "there", result.first_divergence or result.problem)]
    mutations = result.mutations if way != "recorded" else None
    return oracle.differences(one.run.request_id, result.replay_id, mutations)


def told(one: Replayed) -> str:
    """What the verdict goes by."""
    return str([str(item)[:300] for item in one.comparison.differences[:3]])
