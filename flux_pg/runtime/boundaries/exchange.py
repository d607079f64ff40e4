"""One outbound HTTP exchange, whatever client makes it: a boundary value and an `http` span.

Laws:
- What the client's caller sees is untouched: the request that user code holds gets no header, the
  response's bytes pass in the pieces in which they came.
- The key is taken when the request leaves; the response is recorded as far as it was read.
- In a replay no packet leaves: the shims ask `served` before they send anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trio

from ...records import ErrorRecord
from .bodies import header, show_body
from .encoding import decode_error, encode, encode_error
from .modes import Recording
from .originals import perf_counter_ns
from .serving import Divergence, Serving

if TYPE_CHECKING:
    from ...records import SpanRecord
    from ..run import Run
    from .log import BoundaryLog

Headers = list[tuple[str, str]]


class Answer:
    """A recorded response, to be made into one of the client's own kind.

    Attributes:
        whole: Whether all of the body is in the record; if not, asking for more diverges.
        chunks: The body in the pieces in which it came.
        error: What reading on raised then, or None.
    """

    def __init__(self, exchange: Exchange, value: dict[str, Any]) -> None:
        self._exchange = exchange
        self.status: int = value["status"]
        self.reason: str = value["reason"]
        self.version: str = value["version"]
        self.headers: Headers = [(name, item) for name, item in value["headers"]]
        self.body: bytes = value["body"]
        self.whole: bool = value["whole"]
        self.error: BaseException | None = None
        if "body_error" in value:
            self.error = decode_error(value["body_error"])
        self.chunks = self._cut(value.get("pieces", [len(self.body)] if self.body else []))

    def _cut(self, sizes: list[int]) -> list[bytes]:
        chunks, position = [], 0
        for size in sizes:
            chunks.append(self.body[position : position + size])
            position += size
        return chunks

    def end(self) -> None:
        """Call where the recorded bytes are used up.

        Raises:
            BaseException: What was raised there then.
            Divergence: The recording stopped reading before the end.
        """
        if self.error is not None:
            raise self.error
        if not self.whole:
            raise self._exchange.diverged("read on", "unfinished")


class Exchange:
    """An exchange under way.

    Attributes:
        served: Whether the answer comes from a record; nothing may be sent then.
    """

    def __init__(
        self, log: BoundaryLog, client: str, method: str, url: str, headers: Headers
    ) -> None:
        from ..run import current_run

        self._run: Run | None = current_run.get()
        self._method, self._url = method, url
        self._request_headers = headers
        self._sent = bytearray()
        self._sent_bytes = 0
        self._body = bytearray()
        self._pieces: list[int] = []
        self._received = 0
        self._value: dict[str, Any] | None = None
        self._ended = False
        self._mode = log.mode
        limits = log.mode.limits if isinstance(log.mode, Recording) else None
        self._limit = limits.max_value_bytes if limits is not None else None
        self._key = (log.span_path, log.task_path, log.calls)
        self._observation = log.begin("http", client, {"method": method, "url": url})
        self.served = self._observation.served
        self._span = self._begin_span(log)
        self._started_ns = perf_counter_ns()

    # The span

    def _begin_span(self, log: BoundaryLog) -> SpanRecord | None:
        run = self._run
        if run is None or run.closed:
            return None
        run.outside_calls += 1
        attributes: dict[str, Any] = log.place_attributes()
        if run.transaction_open:
            attributes["transaction_open"] = True
        parts = urlsplit(self._url)
        host = parts.netloc.rpartition("@")[2]
        request = {
            "method": self._method,
            "url": run.redactor.url(self._url, run.secrets),
            "headers": run.redactor.headers(self._request_headers, run.secrets),
        }
        return run.begin_span(
            "http", f"{self._method} {host}{parts.path}", request, attributes or None,
            run.caller_location(),
        )  # fmt: skip

    def _end_span(self, error: BaseException | None) -> None:
        run, span = self._run, self._span
        if run is None or span is None or run.closed:
            return
        output: Any = None
        if self._value is not None:
            headers = self._value["headers"]
            output = {
                "status": self._value["status"],
                "headers": run.redactor.headers(headers, run.secrets),
                "body": self._shown_response(run),
            }
            if not self._value.get("whole"):
                output["read"] = "not to its end"
        if isinstance(error, trio.Cancelled):
            run.end_span(span, output, status="cancelled")
            return
        record = None
        if error is not None:
            kind = type(error)
            message = run.redactor.scrub(str(error), run.secrets)
            record = ErrorRecord(f"{kind.__module__}.{kind.__qualname__}", message)
        run.end_span(span, output, record)

    def _shown_response(self, run: Run) -> Any:
        if self._received > len(self._body):
            return {"bytes": self._received}
        assert self._value is not None
        chunked = bool(self._value.get("chunked"))
        return show_body(
            bytes(self._body), self._value["headers"], run.redactor, run.secrets, chunked
        )

    def traceparent(self) -> tuple[str, str] | None:
        """The W3C header to send, unless the request has one of its own."""
        if self._run is None or self._span is None or header(self._request_headers, "traceparent"):
            return None
        invocation = self._run.invocation
        flags = f"{invocation.trace_flags:02x}"
        return "traceparent", f"00-{invocation.trace_id}-{self._span.span_id}-{flags}"

    # The request

    def sending(self, data: bytes) -> None:
        """A piece of the request's body leaves."""
        self._sent_bytes += len(data)
        if self._limit is None or self._sent_bytes <= self._limit:
            self._sent += data

    def request_sent(self) -> None:
        """All of the request's body is known.

        Raises:
            Divergence: In a replay, when the recorded request had another.
        """
        content_type = header(self._request_headers, "content-type")
        more: dict[str, Any] = {"body": encode(bytes(self._sent))}
        if self._sent_bytes > len(self._sent):
            more["body"] = {"omitted_bytes": self._sent_bytes}
        if content_type:
            more["content_type"] = content_type
        span, run = self._span, self._run
        if span is not None and run is not None and self._sent_bytes and not run.closed:
            shown = (
                {"bytes": self._sent_bytes}
                if self._sent_bytes > len(self._sent)
                else show_body(bytes(self._sent), self._request_headers, run.redactor, run.secrets)
            )
            span.input = {**span.input, "body": shown}
        self._observation.note(more, self._sent_bytes)

    # The response, recorded

    def respond(
        self, status: int, reason: str, version: str, headers: Headers, chunked: bool = False
    ) -> None:
        """The head of the response is there. `chunked`: the body is recorded with its framing."""
        self._value = {
            "status": status,
            "reason": reason,
            "version": version,
            "headers": [list(pair) for pair in headers],
        }
        if chunked:
            self._value["chunked"] = True
        if self._span is not None:
            elapsed_us = (perf_counter_ns() - self._started_ns) // 1000
            self._span.attributes = {**(self._span.attributes or {}), "first_byte_us": elapsed_us}

    def receive(self, data: bytes) -> None:
        """A piece of the response's body was read."""
        self._received += len(data)
        self._pieces.append(len(data))
        if self._limit is None or self._received <= self._limit:
            self._body += data

    def end(self, whole: bool = True, error: BaseException | None = None) -> None:
        """The body was read to its end, or no more of it will be read."""
        if self._ended or self._value is None:
            return
        self._ended = True
        self._value["whole"] = whole
        if error is not None and not isinstance(error, trio.Cancelled | GeneratorExit):
            self._value["body_error"] = encode_error(error)
        self._end_span(error)
        if self._received > len(self._body):
            self._observation.finish({}, self._received)
            return
        value = {**self._value, "body": bytes(self._body)}
        if len(self._pieces) > 1:
            value["pieces"] = self._pieces
        self._observation.finish(value, max(len(self._body), 16))

    def let_go(self) -> None:
        """The connection is given back: only now does the caller go on, and the span ends."""
        run, span = self._run, self._span
        if run is not None and span is not None and self._ended and not run.closed:
            run.end_span(span, error=span.error, status=span.status)

    def fail(self, error: BaseException, sending: bool = False) -> None:
        """No response came. `sending`: already the request could not be sent."""
        if self._ended:
            return
        self._ended = True
        if sending:
            self._observation.note({"failed": "sending"})
        self._observation.fail(error)
        self._end_span(error)

    # The response, served

    def answer(self) -> Answer:
        """The recorded response, or raise the recorded error."""
        return self._made_answer(self._observation.answer)

    async def answer_async(self) -> Answer:
        """The same; where the call was cancelled then, wait to be cancelled now."""
        try:
            value = await self._observation.answer_async()
        except BaseException as error:
            self._ended = True
            self._end_span(error)
            raise
        return self._made_answer(lambda: value)

    def _made_answer(self, get: Any) -> Answer:
        try:
            value = get()
        except BaseException as error:
            self._ended = True
            self._end_span(error)
            raise
        answer = Answer(self, value)
        self._value = {**value, "whole": answer.whole}
        self._body += answer.body
        self._received = len(answer.body)
        self._ended = True
        self._end_span(answer.error)
        return answer

    @property
    def failed_sending(self) -> bool:
        """In a replay: whether the recorded request could not even be sent."""
        entry = getattr(self._observation, "entry", None)
        return self.served and entry is not None and entry.request.get("failed") == "sending"

    def diverged(self, now: str, reason: str) -> Divergence:
        """A divergence at this exchange; noted by the mode."""
        described = {"kind": "http", "request": {"method": self._method, "url": self._url}}
        divergence = Divergence(self._key, described, {**described, "now": now}, reason)
        return self._mode.diverge(divergence) if isinstance(self._mode, Serving) else divergence


def text_pairs(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Header bytes as text; latin-1 keeps every byte."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
