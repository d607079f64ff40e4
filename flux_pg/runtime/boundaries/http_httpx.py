"""httpx, sync and async, at its transports: redirects and retries are exchanges of their own.

Transports that do not leave the process (`MockTransport`, `ASGITransport`, `WSGITransport`) are
not touched: what they do is the function's own work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

from .exchange import Answer, Exchange, text_pairs
from .log import current_log, suspended
from .patching import Patches, disguise


class _SentStream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A request body that is noted as it leaves."""

    def __init__(self, inner: Any, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._inner:
            self._exchange.sending(chunk)
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._exchange.sending(chunk)
            yield chunk

    def close(self) -> None:
        self._inner.close()

    async def aclose(self) -> None:
        await self._inner.aclose()


class _ReceivedStream(httpx.SyncByteStream):
    """A response body that is recorded as it is read."""

    def __init__(self, inner: httpx.SyncByteStream, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        with suspended():
            chunks = iter(self._inner)
        while True:
            try:
                with suspended():
                    chunk = next(chunks)
            except StopIteration:
                break
            except BaseException as error:
                self._exchange.end(whole=False, error=error)
                raise
            self._exchange.receive(chunk)
            yield chunk
        self._exchange.end()

    def close(self) -> None:
        with suspended():
            self._inner.close()
        self._exchange.end(whole=False)


class _ReceivedAsyncStream(httpx.AsyncByteStream):
    """The same for async code."""

    def __init__(self, inner: httpx.AsyncByteStream, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange

    # No generators of our own here: one that is not read to its end would be left to the garbage
    # collector, about which Trio warns.
    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = self._inner.__aiter__()
        return self

    async def __anext__(self) -> bytes:
        try:
            with suspended():
                chunk = await self._chunks.__anext__()
        except StopAsyncIteration:
            self._exchange.end()
            raise
        except BaseException as error:
            self._exchange.end(whole=False, error=error)
            raise
        self._exchange.receive(chunk)
        return chunk

    async def aclose(self) -> None:
        try:
            with suspended():
                await self._inner.aclose()
        finally:
            self._exchange.end(whole=False)
            self._exchange.let_go()


class _ServedStream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A recorded response body, in the pieces in which it came."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.chunks
        self._answer.end()

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._rest = iter(self._answer.chunks)
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._rest:
            return chunk
        self._answer.end()
        raise StopAsyncIteration


def _begin(request: httpx.Request) -> Exchange | None:
    log = current_log.get()
    if log is None:
        return None
    return Exchange(log, "httpx", request.method, str(request.url), text_pairs(request.headers.raw))


def _outgoing(request: httpx.Request, exchange: Exchange) -> httpx.Request:
    """A copy to send, so that user code never sees the header that was added."""
    headers = list(request.headers.raw)
    added = exchange.traceparent()
    if added is not None:
        headers.append((added[0].encode(), added[1].encode()))
    return httpx.Request(
        request.method,
        request.url,
        headers=headers,
        stream=_SentStream(request.stream, exchange),
        extensions=request.extensions,
    )


def _record_head(response: httpx.Response, exchange: Exchange) -> None:
    version = response.extensions.get("http_version", b"HTTP/1.1").decode("ascii", "replace")
    reason = response.extensions.get("reason_phrase", b"").decode("latin-1")
    headers = text_pairs(response.headers.raw)
    exchange.respond(response.status_code, reason, version, headers)


def _served(answer: Answer) -> httpx.Response:
    return httpx.Response(
        status_code=answer.status,
        headers=[(name.encode("latin-1"), item.encode("latin-1")) for name, item in answer.headers],
        stream=_ServedStream(answer),
        extensions={
            "http_version": answer.version.encode(),
            "reason_phrase": answer.reason.encode("latin-1"),
        },
    )


def _handle(original: Callable[..., httpx.Response]) -> Callable[..., httpx.Response]:
    def handle_request(self: Any, request: httpx.Request) -> httpx.Response:
        exchange = _begin(request)
        if exchange is None:
            return original(self, request)
        if exchange.served:
            for chunk in request.stream:  # type: ignore[union-attr]
                exchange.sending(chunk)
            exchange.request_sent()
            return _served(exchange.answer())
        try:
            with suspended():
                response = original(self, _outgoing(request, exchange))
        except BaseException as error:
            exchange.request_sent()
            exchange.fail(error)
            raise
        exchange.request_sent()
        _record_head(response, exchange)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _ReceivedStream(response.stream, exchange)
        return response

    return disguise(handle_request, original)


def _handle_async(original: Callable[..., Any]) -> Callable[..., Any]:
    async def handle_async_request(self: Any, request: httpx.Request) -> httpx.Response:
        exchange = _begin(request)
        if exchange is None:
            response: httpx.Response = await original(self, request)
            return response
        if exchange.served:
            async for chunk in request.stream:  # type: ignore[union-attr]
                exchange.sending(chunk)
            exchange.request_sent()
            return _served(await exchange.answer_async())
        try:
            with suspended():
                response = await original(self, _outgoing(request, exchange))
        except BaseException as error:
            exchange.request_sent()
            exchange.fail(error)
            raise
        exchange.request_sent()
        _record_head(response, exchange)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _ReceivedAsyncStream(response.stream, exchange)
        return response

    return disguise(handle_async_request, original)


def install_httpx(patches: Patches) -> None:
    """Record what leaves through httpx."""
    sync, both = httpx.HTTPTransport, httpx.AsyncHTTPTransport
    patches.set(sync, "handle_request", _handle(sync.handle_request))
    patches.set(both, "handle_async_request", _handle_async(both.handle_async_request))
