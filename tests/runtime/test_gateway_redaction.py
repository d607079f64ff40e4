"""Law 6 at the gateway's spans: what a client sent is redacted before it is written."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from flux_pg.gateway.app import App
from flux_pg.gateway.limits import Limits
from flux_pg.gateway.protocol import RequestParser
from flux_pg.records import Invocation, Refusal
from flux_pg.runtime.boundaries.log import BoundaryLog
from flux_pg.runtime.redaction import Redactor
from flux_pg.runtime.refusals import RefusalRecorder
from flux_pg.runtime.run import Run
from flux_pg.runtime.values import to_json
from tests.gateway.client import post
from tests.gateway.stub import StubRunner, function


async def login(ctx: None, name: str, password: str) -> None: ...


SECRETS = ("Basic hunter1", "sid=hunter2", "hunter3", "hunter4")


def prepared(body: dict[str, Any]) -> Invocation | Refusal:
    wire = post(
        "/login?access_token=hunter3",
        json.dumps(body).encode(),
        f"Authorization: {SECRETS[0]}",
        f"Cookie: {SECRETS[1]}",
    )
    parser = RequestParser(Limits(), "client", lambda: 1)
    parser.feed(wire)
    action = App(StubRunner(function(login)), Limits()).prepare(parser.requests[0]).action
    assert isinstance(action, Invocation | Refusal)
    return action


def test_the_gateway_spans_of_a_run_hold_no_secret() -> None:
    action = prepared({"name": "x", "password": "hunter4"})
    assert isinstance(action, Invocation)
    run = Run(action, "", BoundaryLog(), Redactor())
    written = to_json(run.spans) + to_json(run.redacted_input)
    assert not [s for s in SECRETS if s in written] and written.count("redacted:") == 5
    assert action.http is not None
    assert action.http.headers["authorization"] == SECRETS[0], "the function still sees it"


def test_a_refusal_holds_no_secret() -> None:
    action = prepared({"name": 1, "password": "hunter4"})
    assert isinstance(action, Refusal) and isinstance(action.request_id, UUID)
    recorder = RefusalRecorder(None, Redactor(), 1)  # type: ignore[arg-type]
    written = to_json(recorder._document(action))
    assert not [s for s in SECRETS if s in written] and "redacted:" in written
