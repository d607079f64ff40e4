"""NUL characters in the record, which jsonb and text cannot hold: a symbol stands there instead.

It is the symbol for NUL (U+2400) with an invisible mark (U+FE0E) behind it, so that people see what
it is and a replay gets what there was. Laws, for any text of a JSON document:

- `show_nul(hide_nul(text))` means the same as `text`, whatever symbols and marks are in it.
- What holds neither a NUL nor a marked symbol stays as it is.

Of marks behind a symbol an odd number stands for a NUL, an even one for the symbol itself; half of
them were there before.
"""

from __future__ import annotations

import re

_ESCAPE = "\\u0000"
_SYMBOL = "\u2400"
_MARK = "\ufe0e"
_MARKED = _SYMBOL + _MARK
# Pairs of backslashes before the escape are backslashes of the text.
_HIDDEN = re.compile(rf"(?<!\\)((?:\\\\)*)\\u0000({_MARK}*)|{_SYMBOL}({_MARK}+)")
_SHOWN = re.compile(rf"{_SYMBOL}({_MARK}+)")


def hide_nul(text: str) -> str:
    """A JSON document without NUL characters."""
    if _ESCAPE not in text and _MARKED not in text:
        return text
    return _HIDDEN.sub(_hide, text)


def _hide(match: re.Match[str]) -> str:
    if match[3] is not None:
        return _SYMBOL + match[3] * 2
    return f"{match[1]}{_MARKED}{match[2] * 2}"


def show_nul(text: str) -> str:
    """A JSON document of the record as it was before `hide_nul`."""
    return _SHOWN.sub(_show, text) if _MARKED in text else text


def _show(match: re.Match[str]) -> str:
    half, is_nul = divmod(len(match[1]), 2)
    return (_ESCAPE if is_nul else _SYMBOL) + _MARK * half
