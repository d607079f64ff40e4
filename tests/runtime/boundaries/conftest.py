"""Shims are in place for each of these tests, and out again after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flux_pg.runtime.boundaries.install import install_shims, remove_shims
from flux_pg.runtime.boundaries.log import BoundaryLog, current_log
from flux_pg.runtime.boundaries.serving import Serving


@pytest.fixture(autouse=True)
def shims() -> Iterator[None]:
    install_shims()
    yield
    remove_shims()


@contextmanager
def running(log: BoundaryLog) -> Iterator[BoundaryLog]:
    """The body is inside a run whose place is `log`."""
    token = current_log.set(log)
    try:
        yield log
    finally:
        current_log.reset(token)


def through_json(document: Any) -> Any:
    """What is left of a document after it was written and read."""
    return json.loads(json.dumps(document))


def record_and_serve(function: Callable[[], Any]) -> tuple[Any, Any, Any]:
    """Run twice, the second time from the record of the first. Gives both results and it."""
    with running(BoundaryLog()) as log:
        first = function()
    log.close()
    assert log.incomplete == ()
    document = through_json(log.to_json())
    serving = Serving(document)
    with running(BoundaryLog(serving)) as log:
        second = function()
    log.close()
    assert serving.first_divergence is None, serving.first_divergence
    return first, second, document
