"""Tables of the results: medians, their spread over the rounds, and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from tabulate import tabulate

from benchmarks.queues.contenders import Contender
from benchmarks.queues.measure import Drain, Round

Results = dict[str, list[Round]]


def print_report(contenders: Sequence[Contender], results: Results) -> None:
    """Print everything that was measured."""
    _print_rates(contenders, results)
    _print_costs(contenders, results)
    if "flux" in results:
        _print_ratios(contenders, results)
    _print_promises(contenders)


def _print_rates(contenders: Sequence[Contender], results: Results) -> None:
    rows = []
    for contender in contenders:
        rounds = results[contender.key]
        latencies = sorted(ms for one in rounds for ms in one.pickups_ms)
        rows.append(
            [
                contender.name,
                _spread([one.one_rate for one in rounds]),
                _spread([one.batch_rate for one in rounds]),
                _spread([one.inserts.rate for one in rounds]),
                _spread([one.noops.rate for one in rounds]),
                f"{quantile(latencies, 0.5):.1f}",
                f"{quantile(latencies, 0.99):.1f}",
            ]
        )
    headers = ["jobs/s: median (least - most)", "enqueue one", "enqueue 100", "drain INSERT"]
    headers += ["drain no-op", "pick-up p50 ms", "p99 ms"]
    _table(rows, headers)


def _print_costs(contenders: Sequence[Contender], results: Results) -> None:
    rows = []
    for contender in contenders:
        rounds = results[contender.key]
        row = [contender.name]
        for drains in ([one.inserts for one in rounds], [one.noops for one in rounds]):
            worker, server = _median(drains, "worker_ms"), _median(drains, "server_ms")
            row += [f"{worker:.3f}", f"{server:.3f}", f"{worker + server:.3f}"]
        rows.append(row)
    headers = ["CPU ms a job", "INSERT: worker", "Postgres", "both", "no-op: worker", "Postgres"]
    _table(rows, [*headers, "both"])


def _print_ratios(contenders: Sequence[Contender], results: Results) -> None:
    """How many times faster Flux is; above 1 is in its favour, in every column."""
    measures: list[tuple[str, Callable[[list[Round]], float]]] = [
        ("enqueue one", lambda rounds: statistics.median(one.one_rate for one in rounds)),
        ("enqueue 100", lambda rounds: statistics.median(one.batch_rate for one in rounds)),
        ("drain INSERT", lambda rounds: statistics.median(one.inserts.rate for one in rounds)),
        ("drain no-op", lambda rounds: statistics.median(one.noops.rate for one in rounds)),
        ("pick-up p50", lambda rounds: 1 / _latency(rounds, 0.5)),
        ("p99", lambda rounds: 1 / _latency(rounds, 0.99)),
        ("CPU, INSERT", lambda rounds: 1 / _cost([one.inserts for one in rounds])),
        ("CPU, no-op", lambda rounds: 1 / _cost([one.noops for one in rounds])),
    ]
    rows = [
        [contender.name]
        + [f"{read(results['flux']) / read(results[contender.key]):.2f}" for _, read in measures]
        for contender in contenders
        if contender.key != "flux"
    ]
    _table(rows, ["Flux against (x, more is better)", *(name for name, _ in measures)])


def _print_promises(contenders: Sequence[Contender]) -> None:
    rows = [[one.name, one.effects, one.record, one.retries] for one in contenders]
    _table(rows, ["what each guarantees", "effects", "record", "retries"], [26, 32, 26, 32])


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie; 0 for none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _latency(rounds: list[Round], share: float) -> float:
    return quantile(sorted(ms for one in rounds for ms in one.pickups_ms), share) or 1.0


def _cost(drains: list[Drain]) -> float:
    return (_median(drains, "worker_ms") + _median(drains, "server_ms")) or 1.0


def _median(drains: list[Drain], name: str) -> float:
    return statistics.median(getattr(drain, name) for drain in drains)


def _spread(values: list[float]) -> str:
    middle = statistics.median(values)
    return f"{middle:,.0f} ({min(values):,.0f} - {max(values):,.0f})"


def _table(rows: list[list[str]], headers: list[str], widths: list[int] | None = None) -> None:
    text = tabulate(rows, headers=headers, disable_numparse=True, maxcolwidths=widths)
    print(text, end="\n\n", flush=True)
