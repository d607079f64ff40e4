"""Clock, randomness, identifiers and environment: recorded, served, and otherwise as ever."""

from __future__ import annotations

import copy
import datetime
import json
import logging
import os
import pickle
import random
import secrets
import sys
import time
import uuid
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_pg.runtime.boundaries import originals
from flux_pg.runtime.boundaries.install import install_shims, remove_shims
from flux_pg.runtime.boundaries.log import BoundaryLog, suspended
from flux_pg.runtime.boundaries.modes import Limits, Recording
from flux_pg.runtime.boundaries.serving import Divergence, Serving

from .conftest import record_and_serve, running, through_json


class Stamp(datetime.datetime):
    pass


class Day(datetime.date):
    pass


def read_everything() -> list[Any]:
    values: list[Any] = [getattr(time, name)() for name in (
        "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns",
        "process_time", "process_time_ns", "thread_time", "thread_time_ns", "localtime",
        "gmtime", "ctime", "asctime",
    )]  # fmt: skip
    values += [time.strftime("%H:%M:%S"), time.clock_gettime(time.CLOCK_MONOTONIC)]
    berlin = ZoneInfo("Europe/Berlin")
    values += [
        datetime.datetime.now(),
        datetime.datetime.now(datetime.UTC),
        datetime.datetime.now(tz=berlin),
        datetime.datetime.today(),
        datetime.date.today(),
        Stamp.now(),
        Stamp.now(berlin),
        Stamp.today(),
        Day.today(),
    ]
    numbers = list(range(50))
    random.shuffle(numbers)
    values += [numbers, random.random(), random.randint(1, 6), random.gauss(3, 4), random.gauss()]
    values += [random.choice("abc"), random.sample(range(100), 5), random.uniform(1, 2)]
    values += [random.betavariate(1, 2), random.expovariate(3), random.randbytes(9)]
    values += [random.choices("xyz", weights=[1, 2, 3], k=4), random.getstate()]
    values += [random.Random().random(), random.Random(7).random()]
    values += [random.SystemRandom().random(), random.SystemRandom().choice("abc")]
    values += [secrets.token_bytes(8), secrets.token_hex(8), secrets.token_urlsafe(8)]
    values += [secrets.choice("abc"), secrets.randbelow(1000), secrets.randbits(99)]
    values += [uuid.uuid1(), uuid.uuid4(), os.urandom(16), os.getrandom(5), uuid.getnode()]
    values += [os.environ.get("HOME"), os.getenv("FLUX_NOT_THERE", "x"), "HOME" in os.environ]
    values += [sorted(os.environ), len(os.environ), dict(os.environ)]
    return values


def test_every_value_is_served_again_exactly() -> None:
    first, second, _ = record_and_serve(read_everything)
    assert first == second
    assert [type(value) for value in first] == [type(value) for value in second]


def test_a_run_gives_what_the_same_state_gives_outside() -> None:
    """Recording never changes a result: seeded, the shared generator draws the same numbers."""

    def draw() -> list[Any]:
        random.seed(42)
        numbers = list(range(20))
        random.shuffle(numbers)
        return [numbers, random.gauss(1, 2), random.gauss(1, 2), random.sample(range(99), 9),
                random.randbytes(7), random.choices("abc", k=3), random.getstate()]  # fmt: skip

    remove_shims()
    plain = draw()
    install_shims()
    assert draw() == plain
    with running(BoundaryLog()):
        assert draw() == plain


def test_outside_a_run_nothing_is_recorded() -> None:
    log = BoundaryLog()
    read_everything()
    assert log.to_json() is None


def test_runtime_calls_are_not_recorded() -> None:
    log = BoundaryLog()
    with running(log):
        originals.time_s()
        originals.urandom(3)
        logging.getLogger("flux.test").warning("a record has a time stamp")
        with suspended():
            time.time()
            uuid.uuid4()
        exec("import time; time.time()", {"__name__": "trio._core._run"})
        exec("import os; os.urandom(1); os.environ.get('HOME')", {"__name__": "psycopg.waiting"})
        exec("import os; os.environ.get('https_proxy')", {"__name__": "urllib.request"})
    assert log.to_json() is None


def test_calls_of_other_libraries_count() -> None:
    log = BoundaryLog()
    with running(log):
        exec("import time; time.time()", {"__name__": "stripe.util"})
        exec("import time; time.time()", {})
    assert [entry[1:4] for entry in log.to_json()["entries"]] == [["clock", "time.time", "~"]]


def test_clock_reads_are_stored_as_small_differences() -> None:
    log = BoundaryLog()
    with running(log):
        for _ in range(1000):
            time.time()
            # Another kind in between would end the run.
        for _ in range(1000):
            time.monotonic_ns()
    assert len(log.to_json()["entries"]) == 2
    assert len(json.dumps(log.to_json(), separators=(",", ":"))) < 2000 * 8


def test_datetime_stays_the_type_it_was() -> None:
    import datetime as module

    with running(BoundaryLog()):
        now = module.datetime.now(module.UTC)
    assert type(now) is datetime.datetime is msgspec.convert(now.isoformat(), type(now)).__class__
    assert isinstance(now, module.datetime)
    assert isinstance(now, module.date)
    assert pickle.loads(pickle.dumps(now)) == now
    assert msgspec.json.decode(msgspec.json.encode(now), type=module.datetime) == now
    with pytest.raises(TypeError):
        module.datetime.now("UTC")  # type: ignore[arg-type]
    with running(BoundaryLog()), pytest.raises(TypeError):
        module.datetime.now("UTC")  # type: ignore[arg-type]


def test_psycopg_adapts_recorded_values() -> None:
    from psycopg.adapt import PyFormat, Transformer

    with running(BoundaryLog()):
        values = [datetime.datetime.now(), datetime.datetime.now(datetime.UTC),
                  datetime.date.today(), uuid.uuid4(), random.random()]  # fmt: skip
    dumped = Transformer().dump_sequence(values, [PyFormat.TEXT] * len(values))
    assert all(isinstance(item, (bytes, bytearray)) for item in dumped)


def test_utcnow_warns_at_the_caller_as_before() -> None:
    if sys.version_info < (3, 12):
        with running(BoundaryLog()):
            assert datetime.datetime.utcnow().tzinfo is None
        return
    for log in (None, BoundaryLog()):
        with pytest.warns(DeprecationWarning, match="utcnow") as caught:
            if log is None:
                datetime.datetime.utcnow()
            else:
                with running(log):
                    datetime.datetime.utcnow()
        assert caught[0].filename == __file__


def test_a_shim_on_a_class_does_not_become_a_method() -> None:
    class Timer:
        clock = time.perf_counter
        draw = random.random
        unique = uuid.uuid4

    assert isinstance(Timer().clock(), float)
    assert isinstance(Timer().draw(), float)
    assert isinstance(Timer().unique(), uuid.UUID)


def test_shims_and_generators_pickle_and_copy() -> None:
    assert pickle.loads(pickle.dumps(time.time))() > 0
    assert pickle.loads(pickle.dumps(os.urandom))(2)
    generator = random.Random(3)
    assert pickle.loads(pickle.dumps(generator)).random() == generator.random()
    assert copy.deepcopy(generator).random() == generator.random()
    assert type(random.Random()) is random.Random


def test_installing_twice_and_removing_restores_everything() -> None:
    remove_shims()
    before = [time.time, datetime.datetime.__dict__["now"], random.random, os.urandom, uuid.uuid4,
              type(os.environ), random.Random.seed, type(random._inst)]  # type: ignore[attr-defined]  # fmt: skip
    install_shims()
    install_shims()
    assert time.time is not before[0]
    remove_shims()
    after = [time.time, datetime.datetime.__dict__["now"], random.random, os.urandom, uuid.uuid4,
             type(os.environ), random.Random.seed, type(random._inst)]  # type: ignore[attr-defined]  # fmt: skip
    assert after == before


def test_environment_keeps_its_identity_and_its_errors() -> None:
    with running(BoundaryLog()):
        os.environ["FLUX_TEST_SET"] = "1"
        try:
            assert os.environ["FLUX_TEST_SET"] == os.getenv("FLUX_TEST_SET") == "1"
        finally:
            del os.environ["FLUX_TEST_SET"]
        with pytest.raises(KeyError, match="FLUX_TEST_SET"):
            os.environ["FLUX_TEST_SET"]
        assert os.environ.get("FLUX_TEST_SET", "gone") == "gone"
        with pytest.raises(TypeError):
            os.environ.get(1)  # type: ignore[call-overload]


def test_errors_are_recorded_and_raised_again() -> None:
    def ask() -> str:
        try:
            os.urandom(-1)
        except ValueError as error:
            return str(error)
        return "no error"

    first, second, _ = record_and_serve(ask)
    assert first == second != "no error"


def test_divergence_names_both_sides() -> None:
    with running(BoundaryLog()) as log:
        time.time()
        uuid.uuid4()
    serving = Serving(through_json(log.to_json()))
    with running(BoundaryLog(serving)):
        time.time()
        with pytest.raises(Divergence) as caught:
            random.random()
    assert caught.value is serving.first_divergence
    assert caught.value.recorded == {"kind": "uuid", "name": "uuid.uuid4"}
    assert caught.value.now == {"kind": "random", "name": "random.random"}
    assert "recorded: " in str(caught.value) and "now: " in str(caught.value)


def test_asking_for_more_or_for_less_is_a_divergence() -> None:
    with running(BoundaryLog()) as log:
        time.time()
    document = through_json(log.to_json())
    more = Serving(document)
    with running(BoundaryLog(more)), pytest.raises(Divergence):
        time.time()
        time.time()
    assert more.first_divergence is not None and more.first_divergence.reason == "missing"
    less = Serving(document)
    BoundaryLog(less).close()
    assert less.first_divergence is not None and less.first_divergence.reason == "unused"


def test_limits_mark_the_log_incomplete() -> None:
    log = BoundaryLog(Recording(Limits(max_entries=3, max_value_bytes=100, max_total_bytes=150)))
    with running(log):
        assert len(os.urandom(101)) == 101
        os.urandom(100)
        os.urandom(100)
        time.time()
    reasons = log.incomplete
    assert len(reasons) == 3, reasons
    document = through_json(log.to_json())
    assert document["incomplete"] == list(reasons)
    serving = Serving(document)
    with running(BoundaryLog(serving)), pytest.raises(Divergence) as caught:
        os.urandom(101)
    assert caught.value.reason == "omitted"


def test_a_closed_log_passes_through() -> None:
    log = BoundaryLog()
    with running(log):
        log.close()
        assert time.time() > 0
    assert log.to_json() is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["now", "random", "uuid", "span", "env"]), max_size=30))
def test_any_sequence_is_served_in_spans_and_out(steps: list[str]) -> None:
    from flux_pg.runtime.boundaries.log import span_place

    def play() -> list[Any]:
        seen: list[Any] = []
        for step in steps:
            if step == "now":
                seen.append(datetime.datetime.now())
            elif step == "random":
                seen.append(random.randint(0, 10**9))
            elif step == "uuid":
                seen.append(uuid.uuid4())
            elif step == "env":
                seen.append(os.getenv("PATH"))
            else:
                with span_place("step"):
                    seen.append(time.time_ns())
                    with span_place("inner"):
                        seen.append(time.perf_counter())
        return seen

    first, second, _ = record_and_serve(play)
    assert first == second
