"""Public keys that are fetched (JWKS, RFC 7517): kept, refreshed, never for each bad token."""

from __future__ import annotations

import logging

import httpx
import jwt
import trio

log = logging.getLogger("flux_pg.gateway")

MAX_AGE_S = 600.0
"""A key that was withdrawn is believed for this long at most, while the address answers."""

MIN_PAUSE_S = 10.0
"""Between two fetches: tokens with made-up key ids must not become requests to the issuer."""

FETCH_TIMEOUT_S = 5.0
MAX_BYTES = 1 << 20


class KeysUnavailable(Exception):
    """No key could be fetched yet."""


class KeySet:
    """The keys at one address. `fetched_at` and `tried_at`: on Trio's clock."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._lock = trio.Lock()

    async def prepare(self, key_id: str | None) -> None:
        """Fetch the keys if this one is not known, or if they are old; never raises for what goes
        wrong with that."""
        if not self._is_due(key_id):
            return
        async with self._lock:
            if self._is_due(key_id):
                self._tried_at = trio.current_time()
                await self._fetch()

    def _is_due(self, key_id: str | None) -> bool:
        now = trio.current_time()
        wanted = key_id not in self._keys or now - self._fetched_at > MAX_AGE_S
        return wanted and now - self._tried_at > MIN_PAUSE_S

    async def _fetch(self) -> None:
        try:
            async with httpx.AsyncClient(timeout=FETCH_TIMEOUT_S) as client:
                with trio.fail_after(FETCH_TIMEOUT_S):
                    answer = (await client.get(self.url)).raise_for_status()
            if len(answer.content) > MAX_BYTES:
                raise ValueError("it is too large")
            keys = jwt.PyJWKSet.from_dict(answer.json()).keys
        except (httpx.HTTPError, jwt.PyJWTError, ValueError, AttributeError, TypeError,
                trio.TooSlowError) as error:  # fmt: skip
            log.error("auth.jwks_url %s: %s: %s", self.url, type(error).__name__, error)
            return
        usable = [key for key in keys if key.key_type != "oct" and key.public_key_use != "enc"]
        self._keys = {key.key_id: key for key in usable}
        if len(usable) == 1:
            self._keys[None] = usable[0]  # a token need not name the only key
        self._fetched_at = trio.current_time()

    def find(self, key_id: str | None) -> jwt.PyJWK:
        """The key of that id.

        Raises:
            KeysUnavailable: There are none yet.
            jwt.InvalidKeyError: There is no such key.
        """
        if not self._keys:
            raise KeysUnavailable("The public keys of tokens cannot be fetched.")
        found = self._keys.get(key_id)
        if found is None:
            raise jwt.InvalidKeyError("no key of its issuer has its key id")
        return found
