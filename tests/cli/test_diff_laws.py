"""The laws of the diff, on random runs; the seed is printed."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flux_pg.analysis.diff import compare, first_difference, learn
from flux_pg.analysis.diff_align import out_of_order
from flux_pg.analysis.diff_document import compare_runs, differences, document
from flux_pg.analysis.diff_run import Run
from tests.cli.diff_runs import hex_id, make_run, repeat, seeded, uuid_text

ROUNDS = 150


def flipped(change: str) -> str:
    return {"only_a": "only_b", "only_b": "only_a"}.get(change, change)


def ids(side: dict[str, Any] | None) -> Any:
    return side and (side["span_id"], tuple(side["values"].items()).__repr__())


def test_a_run_does_not_differ_from_itself_or_from_its_repetition() -> None:
    rng = seeded()
    for _ in range(ROUNDS):
        run = make_run(rng)
        for other in (run, repeat(rng, run)):
            diff = compare(run, other)
            assert differences(diff) == []
            assert diff.verdict == "IDENTICAL"
            assert {entry.change for entry in diff.entries} == {"same"}
            assert len(diff.spans) == len(run.spans)


def test_a_permutation_of_concurrent_siblings_is_moves_only() -> None:
    rng = seeded()
    for _ in range(ROUNDS):
        run = make_run(rng, spans=1)
        root = run.spans[0]
        many = rng.randrange(2, 12)
        places = list(range(many))
        spans = [
            {
                **copy.deepcopy(run.spans[1]), "span_id": hex_id(rng), "kind": "db",
                "name": "select stock", "parent_span_id": root["span_id"],
                "start_us": 1000 + place, "duration_us": 500,
                "input": {"sql": "select stock", "params": [place]},
                "output": {"rowcount": place},
                "attributes": {"task": str(place)} if rng.random() < 0.5 else None,
            }
            for place in places
        ]  # fmt: skip
        one = replace(run, spans=[root, *spans], mutations=[])
        shuffled = rng.sample(places, many)
        other = repeat(rng, replace(one, spans=[
            root, *({**spans[index], "start_us": 1000 + at} for at, index in enumerate(shuffled))
        ]))  # fmt: skip
        diff = compare(one, other)
        assert diff.verdict == "IDENTICAL"
        changes = [entry.change for entry in diff.spans[1:]]
        assert set(changes) <= {"same", "moved"} and len(changes) == many
        assert ("moved" in changes) == (shuffled != places)


def test_an_order_that_was_fixed_and_is_another_now_is_a_change() -> None:
    rng = seeded()
    run = make_run(rng, spans=0)
    root = run.spans[0]
    steps = [
        {**root, "span_id": hex_id(rng), "parent_span_id": root["span_id"], "kind": "db",
         "name": name, "start_us": at, "duration_us": 10, "input": {"sql": name}, "output": None}
        for at, name in ((100, "take"), (200, "pay"), (300, "send"))
    ]  # fmt: skip
    moved = [{**steps[0], "start_us": 400}, steps[1], steps[2]]
    diff = compare(
        replace(run, spans=[root, *steps]), repeat(rng, replace(run, spans=[root, *moved]))
    )
    assert diff.verdict == "CHANGED"
    assert {e.path: e.change for e in diff.spans[1:]} == {
        "function order > db take": "moved",
        "function order > db pay": "same",
        "function order > db send": "same",
    }


def change_one(rng: random.Random, run: Run) -> tuple[Run, str]:
    """The run with one leaf of one step's output, or one column of one row change, changed."""
    spans = copy.deepcopy(list(run.spans))
    mutations = copy.deepcopy(list(run.mutations or ()))
    inserts = [row for row in mutations if row["op"] == "INSERT"]
    if inserts and rng.random() < 0.3:
        row = rng.choice(inserts)
        row["new"]["word"] = "a word that is nowhere else"
        return replace(run, mutations=mutations), f"{row['table']}"
    span = rng.choice(spans)
    if span["kind"] == "db":
        span["output"]["rowcount"] += 1
        return replace(run, spans=spans), "output.rowcount"
    span["output"] = {"taken": "words that are nowhere else"}
    return replace(run, spans=spans), "output"


def test_one_changed_value_is_found_and_nothing_else() -> None:
    rng = seeded()
    for _ in range(ROUNDS):
        run = make_run(rng)
        changed, place = change_one(rng, run)
        diff = compare(run, repeat(rng, changed))
        assert diff.verdict == "CHANGED"
        steps = [entry for entry in diff.spans if entry.change != "same"]
        rows = [row for row in diff.rows if row.change != "same"]
        assert len(steps) + len(rows) == 1
        found = steps[0].leaves if steps else rows[0].leaves
        assert found and (rows or all(leaf.place.startswith(place) for leaf in found))
        assert diff.request.leaves == []
        first = first_difference(diff)
        assert (first is steps[0]) if steps else (first is None)


def test_swapping_the_runs_swaps_the_sides_and_nothing_else() -> None:
    rng = seeded()
    for _ in range(ROUNDS):
        one = make_run(rng)
        other = repeat(rng, one)
        for _ in range(rng.randrange(4)):
            other, _place = change_one(rng, other)
        spans = list(other.spans)
        for _ in range(rng.randrange(3)):
            if len(spans) > 2:
                spans.pop(rng.randrange(1, len(spans)))
        other = replace(other, spans=spans, outcome=rng.choice(["ok", "ok", "error"]))
        there, back = document(compare(one, other)), document(compare(other, one))
        swapped = {"FIXED": "REGRESSED", "REGRESSED": "FIXED"}
        assert back["verdict"] == swapped.get(there["verdict"], there["verdict"])
        assert sorted(
            ((e["change"], ids(e["a"]), ids(e["b"]), e["delta_us"]) for e in there["spans"][1:]),
            key=repr,
        ) == sorted(
            (
                (flipped(e["change"]), ids(e["b"]), ids(e["a"]),
                 None if e["delta_us"] is None else -e["delta_us"])
                for e in back["spans"][1:]
            ),
            key=repr,
        )  # fmt: skip
        rows = [(m["change"], m["a"], m["b"]) for m in there["mutations"]]
        swapped_rows = [(flipped(m["change"]), m["b"], m["a"]) for m in back["mutations"]]
        assert sorted(rows, key=repr) == sorted(swapped_rows, key=repr)


def test_two_unrelated_runs_have_each_span_once() -> None:
    rng = seeded()
    for _ in range(ROUNDS):
        one, other = make_run(rng), make_run(rng)
        spans = compare(one, other).spans
        ours = [e.pair.a.span["span_id"] for e in spans if e.pair and e.pair.a]
        theirs = [e.pair.b.span["span_id"] for e in spans if e.pair and e.pair.b]
        assert sorted(ours) == sorted(s["span_id"] for s in one.spans)
        assert sorted(theirs) == sorted(s["span_id"] for s in other.spans)


def with_output(run: Run, output: Any) -> Run:
    return replace(run, spans=[{**run.spans[0], "output": output}, *run.spans[1:]], response=output)


def moment(run: Run, later_s: float = 0.0) -> datetime:
    return datetime.fromtimestamp(run.started_us / 1e6, UTC) + timedelta(seconds=later_s)


@pytest.mark.parametrize("kind", ["uuid", "hex", "iso", "epoch", "http", "url", "tomorrow"])
def test_what_is_made_anew_in_each_run_is_set_apart(kind: str) -> None:
    rng = seeded()
    one = make_run(rng)
    other = repeat(rng, one)

    def made(run: Run) -> Any:
        token = uuid_text(rng)
        at = moment(run, 0.02)
        return {
            "uuid": {"id": token, "link": f"/orders/{token}/lines"},
            "hex": {"digest": hex_id(rng, 32)},
            "iso": {"at": at.isoformat()},
            "epoch": {"at": round(at.timestamp(), 3), "ms": int(at.timestamp() * 1000)},
            "http": {"date": at.strftime("%a, %d %b %Y %H:%M:%S GMT")},
            "url": f"https://shop/orders/{token}?at={int(at.timestamp())}",
            "tomorrow": {"due": (at + timedelta(days=1)).isoformat()},
        }[kind]

    diff = compare(with_output(one, made(one)), with_output(other, made(other)))
    assert differences(diff) == []
    assert diff.verdict == "IDENTICAL" and diff.volatile


def test_what_looks_made_anew_and_is_not_is_a_difference() -> None:
    rng = seeded()
    one = make_run(rng)
    other = repeat(rng, one)
    x, y, z = (uuid_text(rng) for _ in range(3))
    pairs: list[tuple[Any, Any]] = [
        # One id that stands for two, and one that stayed the same elsewhere.
        ({"order": x, "line": x}, {"order": y, "line": z}),
        ({"order": x, "line": x}, {"order": x, "line": y}),
        # A time that is an hour further from its run's start.
        ({"at": moment(one).isoformat()}, {"at": moment(other, 3600).isoformat()}),
        ({"at": moment(one).timestamp()}, {"at": moment(other, 3600).timestamp()}),
        ({"day": f"{moment(one):%Y-%m-%d}"}, {"day": f"{moment(other, 86400):%Y-%m-%d}"}),
        # Secrets are compared by their hash.
        ({"token": f"redacted:{hex_id(rng)}"}, {"token": f"redacted:{hex_id(rng)}"}),
        ({"n": 1}, {"n": True}),
        ({"n": 1}, {"n": "1"}),
        ({"n": None}, {}),
    ]
    for a, b in pairs:
        diff = compare(with_output(one, a), with_output(other, b))
        assert diff.verdict == "CHANGED", (a, b)


def test_what_was_given_with_the_request_is_never_volatile() -> None:
    rng = seeded()
    one = make_run(rng)
    other = repeat(rng, one)
    x, y = uuid_text(rng), uuid_text(rng)

    def given(run: Run, id_: str) -> Run:
        return with_output(replace(run, input={"id": id_}), {"found": id_})

    diff = compare(given(one, x), given(other, y))
    assert diff.verdict == "CHANGED" and diff.volatile == []
    assert first_difference(diff) is diff.request


def insert(number: int, span: Any, **columns: Any) -> dict[str, Any]:
    row = {"id": number, **columns}
    return {
        "seq": number, "span_id": span["span_id"], "schema": "public", "table": "orders",
        "pk": {"id": number}, "op": "INSERT", "old": None, "new": row, "changed": list(row),
        "outcome": "committed", "at": "",
    }  # fmt: skip


def test_a_key_drawn_from_a_sequence_is_set_apart_and_a_count_that_equals_it_is_not() -> None:
    rng = seeded()
    one = make_run(rng)
    other = repeat(rng, one)

    def ordered(run: Run, key: int, count: int) -> Run:
        changed = replace(run, mutations=[
            insert(key, run.spans[0], word="amber"),
            {**insert(key, run.spans[0]), "op": "UPDATE", "old": {"word": "amber"},
             "new": {"word": "birch"}},
        ])  # fmt: skip
        return with_output(changed, {"id": key, "user_id": key, "count": count})

    diff = compare(ordered(one, 3, 7), ordered(other, 4, 7))
    assert differences(diff) == []
    assert {entry.reason for entry in diff.volatile} == {"sequence"}
    counted = compare(ordered(one, 3, 3), ordered(other, 4, 4))
    assert [leaf.place for leaf in counted.spans[0].leaves] == ["output.count"]


@pytest.mark.parametrize(
    ("sql", "then", "now", "reason"),
    [
        ("insert into t (a) values (%s)", "(5, null, 8)", "(6, null, 8)", "sequence"),
        ("insert into t (a) values (%s)", "(5, null, 8)", "(6, null, x)", None),
        ("insert into t (a) values (%s)", "(5, null, 8)", "(5, null, 9)", None),
        ("insert into t (a) select max(b) from t", "(5, null, 8)", "(6, null, 8)", None),
        ("update t set a = a + 1", "(5, null, 8)", "(6, null, 8)", None),
    ],
)
def test_a_key_drawn_by_an_insert_that_failed_is_set_apart(
    sql: str, then: str, now: str, reason: str | None
) -> None:
    rng = seeded()
    one = make_run(rng, spans=0)
    other = repeat(rng, one)

    def failed(run: Run, row: str) -> Run:
        error = {"type": "NotNullViolation", "message": "null", "sqlstate": "23502",
                 "detail": f"Failing row contains {row}."}  # fmt: skip
        asked = {"sql": sql, "params": [8, 9]}
        own = {"kind": "db", "name": "t", "span_id": hex_id(rng), "input": asked, "error": error}
        step = {**run.spans[0], **own, "parent_span_id": run.spans[0]["span_id"]}
        return replace(run, spans=[run.spans[0], step], outcome="error", error=error)

    diff = compare(failed(one, then), failed(other, now))
    assert {entry.reason for entry in diff.volatile} == ({reason} if reason else set())
    assert diff.verdict == ("IDENTICAL" if reason else "CHANGED")


def test_rows_with_other_keys_that_were_given_are_other_rows() -> None:
    rng = seeded()
    one = make_run(rng, spans=0)
    step = {**one.spans[0], "kind": "db", "name": "insert", "span_id": hex_id(rng),
            "parent_span_id": one.spans[0]["span_id"]}  # fmt: skip

    def ordered(run: Run, key: int) -> Run:
        spans = [run.spans[0], {**step, "input": {"sql": "insert", "params": [key, "amber"]}}]
        return replace(run, spans=spans, mutations=[insert(key, step, word="amber")])

    diff = compare(ordered(one, 41), ordered(repeat(rng, one), 42))
    assert sorted(row.change for row in diff.rows) == ["only_a", "only_b"]
    places = [where for where, _, _ in differences(diff) if "INSERT" in where]
    assert sorted(place.split()[-1] for place in places) == ["41", "42"], places


def test_places_that_differ_between_two_runs_of_one_code_are_learned() -> None:
    rng = seeded()
    one = make_run(rng)
    twin, other = repeat(rng, one), repeat(rng, one)

    def told(run: Run, mood: str, size: int) -> Run:
        return with_output(run, {"mood": mood, "size": size})

    learned, _ = learn([(told(one, "calm", 1), told(twin, "wild", 1))])
    assert compare(told(one, "calm", 1), told(other, "odd", 1), learned).verdict == "IDENTICAL"
    diff = compare(told(one, "calm", 1), told(other, "odd", 2), learned)
    assert [leaf.place for leaf in diff.spans[0].leaves] == ["output.size"]


def test_verdicts_of_outcomes() -> None:
    rng = seeded()
    good = make_run(rng)
    error = {"type": "ValueError", "message": "no", "stack": [{"file": "a.py", "line": 3}]}
    bad = replace(good, outcome="error", status_code=500, error=error)
    shifted = replace(
        bad, request_id=uuid_text(rng), error={**error, "stack": [{"file": "a.py", "line": 9}]}
    )
    other = replace(bad, error={**error, "message": "never"})
    assert compare(good, bad).verdict == "REGRESSED"
    assert compare(bad, good).verdict == "FIXED"
    assert compare(bad, shifted).verdict == "IDENTICAL"
    assert compare(bad, other).verdict == "CHANGED"
    assert compare(good, replace(good, status_code=503)).verdict == "REGRESSED"
    incomplete = replace(good, request_id=uuid_text(rng), incomplete_reason="lost")
    assert compare(good, incomplete).verdict == "CHANGED"
    assert compare(incomplete, incomplete).verdict == "IDENTICAL"


def test_verdicts_of_replays() -> None:
    rng = seeded()
    run = make_run(rng)
    same = replace(repeat(rng, run), kind="replay")
    assert compare_runs(run, same).verdict == "same"
    assert compare_runs(run, same, diverged=True).verdict == "diverged"
    changed, _ = change_one(rng, same)
    assert compare_runs(run, changed).verdict == "changed"
    assert compare_runs(run, changed).differences
    assert compare_runs(run, changed, interleaved=True).verdict == "interleaved"
    failed = replace(same, outcome="error", status_code=500)
    assert compare_runs(run, failed).verdict == "regressed"
    assert compare_runs(failed, run).verdict == "fixed"


def test_the_longest_order_is_kept() -> None:
    assert out_of_order([0, 1, 2]) == []
    assert out_of_order([1, 2, 3, 0]) == [3]
    assert out_of_order([1, 0]) == [0, 1]
    assert out_of_order([2, 0, 1]) == [0]


def test_runs_of_many_steps_are_compared_in_bounded_time() -> None:
    rng = seeded()
    run = make_run(rng, spans=3000)
    assert compare(run, repeat(rng, run)).verdict == "IDENTICAL"
    deep = [{**run.spans[0]}]
    for level in range(3000):
        deep.append({**run.spans[1], "span_id": f"{level + 1:016x}",
                     "parent_span_id": deep[-1]["span_id"]})  # fmt: skip
    one = replace(run, spans=deep, mutations=[])
    assert compare(one, one).verdict == "IDENTICAL"
