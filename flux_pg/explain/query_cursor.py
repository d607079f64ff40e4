"""Cursors: where a page of rows ended, as an opaque text. Pure.

A cursor holds the values of the order's columns in the last row, as Postgres writes them, and a
mark of the table and the order that it belongs to. It is not signed and nothing depends on it being
genuine: whatever a forged one holds is bound as parameters, and can only name a place in the rows
that the query may see anyway.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence

import msgspec

from ..errors import InputError
from .query_words import Sort

MAX_LENGTH = 100_000


class _Cursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    mark: str
    place: list[str | None]


_decoder = msgspec.json.Decoder(_Cursor)


def write_cursor(table: str, order: Sequence[Sort], place: Sequence[str | None]) -> str:
    """The cursor after the row that has this place in the order."""
    content = msgspec.json.encode(_Cursor(_mark(table, order), list(place)))
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def read_cursor(cursor: object, table: str, order: Sequence[Sort]) -> list[str | None]:
    """The place that a cursor stands for.

    Raises:
        InputError: It is no cursor, or one of another table or order.
    """
    if not isinstance(cursor, str) or len(cursor) > MAX_LENGTH:
        raise _bad("is no text that a page has given")
    try:
        content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        found = _decoder.decode(content)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise _bad("is none that a page has given") from error
    if found.mark != _mark(table, order):
        raise _bad(f"is not one of {table} in this order")
    if any("\x00" in text for text in found.place if text is not None):
        raise _bad("is none that a page has given")
    return found.place


def _mark(table: str, order: Sequence[Sort]) -> str:
    asked = [[sort.column, sort.descending, sort.nulls] for sort in order]
    return hashlib.sha256(msgspec.json.encode([table, asked])).hexdigest()[:12]


def _bad(what: str) -> InputError:
    return InputError(
        f"the cursor {what}",
        "Pass `next` of the page before, and ask for the same table and order.",
        code="bad-cursor",
    )
