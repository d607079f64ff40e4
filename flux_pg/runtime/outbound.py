"""`ctx.http`: one client for the process, so that connections are kept.

What is recorded of a call is the business of the shim below httpx's transports, which also sees
calls made with httpx directly; this file only owns the client.
"""

from __future__ import annotations

from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from .boundaries.log import suspended

TIMEOUT_S = 30.0


def _no_cookies() -> CookieJar:
    """A jar that keeps nothing: what one request's call was given is none of the next one's."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


class OutboundClient:
    """An `httpx.AsyncClient`, made with the first call."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    async def request(self, method: str, url: str, options: dict[str, Any]) -> httpx.Response:
        """Send a request; redirects are not followed unless asked for.

        Raises:
            httpx.HTTPError: It could not be sent, or no answer came.
        """
        if self._client is None:
            with suspended():
                self._client = httpx.AsyncClient(timeout=TIMEOUT_S, cookies=_no_cookies())
        return await self._client.request(method, url, **options)

    async def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.aclose()
