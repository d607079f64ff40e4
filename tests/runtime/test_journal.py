"""The journal survives what its worker does not, and never says more or less than happened."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from flux_pg.runtime import journal as journal_module
from flux_pg.runtime.journal import (
    Journal,
    JournalError,
    Slot,
    claim,
    fit_entry,
    read_journal,
    read_leftovers,
    write_reason,
)
from tests.runtime.journal_child import entry_of

CHILD = [sys.executable, "-m", "tests.runtime.journal_child"]
ROOT = Path(__file__).parents[2]


def entry(number: int, size: int = 0) -> bytes:
    return json.dumps({"request_id": number, "input": "i" * size}).encode()


def found(path: Path) -> set[int]:
    leftovers = read_leftovers(path)
    assert not any(leftover.torn for leftover in leftovers)
    return {leftover.entry["request_id"] for leftover in leftovers if leftover.entry}


def test_a_begun_request_is_found_until_it_is_ended(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "a.journal", slots=4)
    first, second = journal.begin(entry(1)), journal.begin(entry(2), deadline_ns=77)
    assert found(journal.path) == {1, 2}
    journal.end(first)
    assert [(left.entry, left.deadline_ns) for left in read_leftovers(journal.path)] == [
        ({"request_id": 2, "input": ""}, 77)
    ]
    journal.end(second)
    assert read_leftovers(journal.path) == []
    journal.close()
    assert not journal.path.exists()


def test_a_journal_with_leftovers_stays_when_it_is_closed(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "a.journal", slots=4)
    journal.begin(entry(1))
    journal.close()
    assert found(tmp_path / "a.journal") == {1}


def test_ending_a_request_twice_is_refused(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "a.journal", slots=4)
    slot = journal.begin(entry(1))
    journal.end(slot)
    with pytest.raises(ValueError, match="not in use"):
        journal.end(slot)


def test_a_full_journal_grows(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "a.journal", slots=4)
    slots = [journal.begin(entry(number)) for number in range(100)]
    assert found(journal.path) == set(range(100))
    for slot in slots[::2]:
        journal.end(slot)
    assert found(journal.path) == set(range(1, 100, 2))
    for slot in slots[1::2]:
        journal.end(slot)
    journal.close()
    assert not journal.path.exists()


def test_a_journal_that_cannot_grow_refuses_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.create(tmp_path / "a.journal", slots=4)
    for number in range(4):
        journal.begin(entry(number))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal_module, "_reserve", full)
    with pytest.raises(JournalError, match="No space left"):
        journal.begin(entry(4))
    assert found(journal.path) == {0, 1, 2, 3}


def test_a_journal_in_an_unwritable_place_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be written") as caught:
        Journal.create(tmp_path / "file" / "a.journal")
    assert caught.value.hint


def test_only_its_owner_may_read_a_journal(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "deep" / "a.journal", slots=4)
    assert journal.path.stat().st_mode & 0o077 == 0


def test_an_entry_larger_than_its_slot_loses_input_and_says_so(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "a.journal", slots=4, slot_bytes=4096)
    journal.begin(entry(7, size=100_000))
    (leftover,) = read_leftovers(journal.path)
    assert leftover.entry is not None
    assert leftover.entry["request_id"] == 7
    assert leftover.entry["input_truncated"] is True
    assert leftover.entry["input_bytes"] == 100_002
    assert leftover.entry["input"].startswith('"iiii')
    assert 3500 < len(leftover.entry["input"]) < 4096


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["kind", "function", "path", "client_request_id", "principal"]),
        st.one_of(st.text(max_size=3000), st.integers(), st.lists(st.text(max_size=500))),
    ),
    st.recursive(st.text(max_size=2000), lambda inner: st.lists(inner, max_size=9)),
    st.sampled_from([1004, 4076]),
)
def test_any_entry_can_be_cut_to_fit(extra: dict[str, object], value: object, limit: int) -> None:
    ids = {"request_id": "r" * 36, "trace_id": "t" * 32, "root_span_id": "s" * 16}
    cut = fit_entry(json.dumps(ids | extra | {"input": value}).encode(), limit)
    assert len(cut) <= limit
    document = json.loads(cut)
    assert document["input_truncated"] is True
    assert {name: document[name] for name in ids} == ids
    assert document.keys() == {*ids, *extra, "input", "input_truncated", "input_bytes"}


def test_any_torn_slot_is_marked_and_hides_no_other(tmp_path: Path) -> None:
    # What a machine that lost power leaves: some bytes of a slot are old, some new.
    journal = Journal.create(tmp_path / "a.journal", slots=4)
    journal.begin(entry(1, 500))
    _, at = journal.begin(entry(2, 500))
    content = bytearray(journal.path.read_bytes())
    start = 16384 + at
    rng = random.Random(1)
    for _ in range(200):
        torn = bytearray(content)
        position = start + rng.randrange(1, 400)
        torn[position] ^= 1 << rng.randrange(8)
        path = tmp_path / "torn.journal"
        path.write_bytes(torn)
        leftovers = read_leftovers(path)
        whole = [leftover.entry["request_id"] for leftover in leftovers if leftover.entry]
        assert 1 in whole
        assert set(whole) <= {1, 2}
        if position >= start + 4:  # the three bytes before are padding
            assert whole == [1]
            assert [leftover.torn for leftover in leftovers].count(True) == 1


def test_a_reason_is_kept_in_the_journal(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "a.journal", slots=4)
    assert read_journal(journal.path).reason == ""
    write_reason(journal.path, "the loop was blocked")
    assert read_journal(journal.path).reason == "the loop was blocked"
    write_reason(journal.path, "it was blocked", "functions/a.py:3 in f")
    found = read_journal(journal.path)
    assert (found.reason, found.place) == ("it was blocked", "functions/a.py:3 in f")
    assert read_journal(journal.path).pid == os.getpid()
    write_reason(tmp_path / "gone.journal", "nobody reads this")


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.journal").write_text("hello")
    with pytest.raises(JournalError, match="is not a journal"):
        read_leftovers(tmp_path / "a.journal")


class JournalMachine(RuleBasedStateMachine):
    """Any order of begins and ends agrees with a plain dictionary."""

    directory: Path
    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1
        self.journal = Journal.create(self.directory / f"{self.made}.journal", 4, 1024)
        self.running: dict[int, tuple[Slot, bytes]] = {}
        self.number = 0

    @rule(size=st.integers(0, 900))
    def begin(self, size: int) -> None:
        self.number += 1
        data = entry(self.number, size)
        self.running[self.number] = self.journal.begin(data), data

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.running:
            number = data.draw(st.sampled_from(sorted(self.running)))
            self.journal.end(self.running.pop(number)[0])

    @invariant()
    def what_runs_is_what_is_found(self) -> None:
        documents = [left.entry for left in read_leftovers(self.journal.path) if left.entry]
        assert {document["request_id"]: document["input"] for document in documents} == {
            number: json.loads(data)["input"] for number, (_, data) in self.running.items()
        }

    def teardown(self) -> None:
        self.journal.close()


def test_any_order_of_begins_and_ends_is_reflected(tmp_path: Path) -> None:
    machine = type("Machine", (JournalMachine,), {"directory": tmp_path})
    quick = settings(
        max_examples=25,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=quick)


def test_a_living_workers_journal_cannot_be_claimed(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    child = subprocess.Popen([*CHILD, str(path), "1"], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    with child, child.stdout as lines:
        assert lines.readline() == b"b 1\n"
        assert claim(path) is None
        child.kill()
    taken = claim(path)
    assert taken is not None
    assert claim(path) is None, "two may not recover one journal"
    taken.remove()
    taken.release()
    assert claim(path) is None


def test_a_forked_child_does_not_hold_the_lock(tmp_path: Path) -> None:
    # A worker whose function forked: the child lives on after the worker was killed.
    program = f"""if True:
        import os, time
        from pathlib import Path
        from flux_pg.runtime.journal import Journal
        journal = Journal.create(Path({str(tmp_path / "a.journal")!r}), 4)
        journal.begin(b'{{"request_id": 1}}')
        child = os.fork()
        if child:
            os.write(1, b"%d\\n" % child)
        time.sleep(60)"""
    worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT)
    assert worker.stdout is not None
    orphan = int(worker.stdout.readline())
    try:
        worker.kill()
        worker.wait()
        worker.stdout.close()
        os.kill(orphan, 0)
        deadline = time.monotonic() + 60
        while (taken := claim(tmp_path / "a.journal")) is None:
            # The child drops the lock right after the fork, perhaps just after its parent died.
            assert time.monotonic() < deadline
            select.select([], [], [], 0.01)
        taken.release()
    finally:
        os.kill(orphan, signal.SIGKILL)


def killed_at_random(path: Path, seed: int) -> tuple[set[int], set[int]]:
    """Run the child, kill it at a random moment; returns who certainly runs, and who may."""
    rng = random.Random(seed)
    child = subprocess.Popen([*CHILD, str(path), str(seed)], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    with child, child.stdout as pipe:
        output = os.read(pipe.fileno(), 65536)
        enough = rng.randrange(40_000)
        while len(output) < enough:
            output += os.read(pipe.fileno(), 65536)
        child.kill()
        output += pipe.read()
    certain: set[int] = set()
    possible: set[int] = set()
    for line in output.splitlines():
        step, number = line.split()
        change = {b"b": possible.add, b"B": certain.add, b"e": certain.discard}.get(step)
        (change or possible.discard)(int(number))
    return certain, possible


def test_kill_at_any_point_leaves_exactly_what_ran(tmp_path: Path) -> None:
    seed = int(os.environ.get("FLUX_SEED") or random.randrange(1 << 32))
    rounds = int(os.environ.get("FLUX_CRASH_ROUNDS", "12"))
    print(f"FLUX_SEED={seed} FLUX_CRASH_ROUNDS={rounds}")
    seen = 0
    for number in range(rounds):
        path = tmp_path / f"{number}.journal"
        certain, possible = killed_at_random(path, seed + number)
        left = found(path)
        assert certain <= left, "a request that ran was lost"
        assert left <= possible, "a request was invented"
        for leftover in read_leftovers(path):
            document = leftover.entry
            assert document is not None
            expected = json.loads(entry_of(document["request_id"], seed + number))
            if document.get("input_truncated"):
                assert len(expected["input"]) > 4000
            else:
                assert document == expected
        seen += len(left)
    assert seen > rounds, "the child was killed before it did anything"
