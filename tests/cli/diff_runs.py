"""Random recorded runs for the laws of the diff, and runs that repeat them."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import Any

from flux_pg.analysis.diff_run import Run

WORDS = "amber birch cedar dune ember fjord grove heath islet knoll larch moss".split()
START_US = 1_780_000_000_000_000


def seeded() -> random.Random:
    """A generator whose seed is printed, and taken from SEED if that is set."""
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"SEED={seed}")
    return random.Random(seed)


def hex_id(rng: random.Random, digits: int = 16) -> str:
    return f"{rng.getrandbits(4 * digits) | 1:0{digits}x}"


def uuid_text(rng: random.Random) -> str:
    text = hex_id(rng, 32)
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind == 0:
        return rng.randrange(100)
    if kind == 1:
        return rng.choice([None, True, False, 1.5])
    if kind < 6:
        return " ".join(rng.choices(WORDS, k=rng.randrange(1, 4)))
    if kind < 8:
        return {name: value(rng, depth + 1) for name in rng.sample(WORDS, rng.randrange(4))}
    return [value(rng, depth + 1) for _ in range(rng.randrange(4))]


def _span(rng: random.Random, parent: str | None, start: int, length: int) -> dict[str, Any]:
    kind = rng.choice(["db", "db", "http", "span", "call", "log", "queue"])
    given: Any = {"given": value(rng)}
    output: Any = {"taken": value(rng)}
    name = rng.choice(WORDS[:4])
    if kind == "db":
        given = {"sql": f"select {name}", "params": [rng.choice(WORDS), rng.randrange(50)]}
        rows = [[rng.choice(WORDS), str(rng.randrange(50))] for _ in range(rng.randrange(4))]
        output = {"columns": ["word", "n"], "types": [25, 23], "rows": rows, "rowcount": len(rows)}
    attributes = {"task": str(rng.randrange(4))} if rng.random() < 0.4 else None
    return {
        "span_id": hex_id(rng), "parent_span_id": parent, "kind": kind, "name": name,
        "start_us": start, "duration_us": length, "status": "ok", "input": given,
        "output": output, "error": None, "location": None, "attributes": attributes,
    }  # fmt: skip


def make_run(rng: random.Random, spans: int | None = None) -> Run:
    """A run of one function with up to thirty steps below it, and row changes."""
    given = {"item": value(rng), "note": value(rng)}
    root = {
        "span_id": hex_id(rng), "parent_span_id": None, "kind": "function", "name": "order",
        "start_us": 0, "duration_us": 100_000, "status": "ok", "input": given,
        "output": value(rng), "error": None, "location": None, "attributes": None,
    }  # fmt: skip
    rows = [root]
    at = 10
    for _ in range(rng.randrange(30) if spans is None else spans):
        parent = rng.choice(rows[-6:] if rng.random() < 0.5 else rows[:1])
        length = rng.randrange(1, 900)
        rows.append(_span(rng, parent["span_id"], at, length))
        at += length + rng.randrange(1, 50)
    mutations = [_mutation(rng, number, rng.choice(rows)) for number in range(rng.randrange(8))]
    return Run(
        request_id=uuid_text(rng), trace_id=hex_id(rng, 32), kind="invoke", function="order",
        input=given, outcome="ok", status_code=200, response=root["output"],
        started_us=START_US + rng.randrange(10**12), duration_us=100_500, spans=rows,
        mutations=mutations,
    )  # fmt: skip


def _mutation(rng: random.Random, number: int, span: dict[str, Any]) -> dict[str, Any]:
    op = rng.choice(["INSERT", "UPDATE", "DELETE"])
    key = {"id": 900 + number}
    row = {**key, "word": rng.choice(WORDS), "n": rng.randrange(50)}
    old = {"word": rng.choice(WORDS)} if op == "UPDATE" else row if op == "DELETE" else None
    new = {"word": rng.choice(WORDS)} if op == "UPDATE" else row if op == "INSERT" else None
    return {
        "seq": number + 1, "span_id": span["span_id"], "schema": "public",
        "table": rng.choice(["orders", "stock"]), "pk": key, "op": op, "old": old, "new": new,
        "changed": ["word"], "outcome": "committed", "at": "2026-05-01T10:00:00Z",
    }  # fmt: skip


def repeat(rng: random.Random, run: Run) -> Run:
    """The same run once more: other ids, other times, nothing else."""
    ids = {span["span_id"]: hex_id(rng) for span in run.spans}
    spans = [
        {
            **span,
            "span_id": ids[span["span_id"]],
            "parent_span_id": ids.get(span["parent_span_id"]),
            "duration_us": span["duration_us"] + rng.randrange(50),
        }
        for span in run.spans
    ]
    mutations = [{**row, "span_id": ids.get(row["span_id"])} for row in run.mutations or ()]
    return replace(
        run, request_id=uuid_text(rng), trace_id=hex_id(rng, 32), spans=spans,
        mutations=mutations, started_us=run.started_us + rng.randrange(10**11),
    )  # fmt: skip
