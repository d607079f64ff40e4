"""`/livez` and `/readyz`: whether this worker runs, and whether it can take requests.

These are not requests: nothing is recorded, and they answer while the database does not.
"""

from __future__ import annotations

from flux_pg.records import Reply

PATHS = frozenset({"/livez", "/readyz"})
_TEXT = ("content-type", "text/plain; charset=utf-8")
_NO_STORE = ("cache-control", "no-store")


def health_reply(method: str, path: str, *, ready: bool, draining: bool) -> Reply:
    """Answer a health check.

    Args:
        method: GET or HEAD; anything else gets 405.
        path: One of `PATHS`.
        ready: Whether the database answered last time.
        draining: Whether this worker is about to end; a load balancer should look elsewhere.
    """
    headers = [_TEXT, _NO_STORE]
    if method not in ("GET", "HEAD"):
        return Reply(status_code=405, headers=[*headers, ("allow", "GET, HEAD")], body=b"")
    if path == "/livez":
        return Reply(status_code=200, headers=headers, body=b"ok\n")
    if draining:
        return Reply(status_code=503, headers=headers, body=b"draining\n")
    if not ready:
        return Reply(status_code=503, headers=headers, body=b"database not reachable\n")
    return Reply(status_code=200, headers=headers, body=b"ready\n")
