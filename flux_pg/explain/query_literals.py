"""A compiled query with its values written in, for `flux explain` and for people. Pure.

Only ever shown, or planned: what is run has its values as parameters.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from sqlglot import exp

from .query_sql import Compiled

_MARK = re.compile("%[%s]")
_PLAIN = re.compile(r"[A-Za-z0-9_.:+-]+")


def with_literals(compiled: Compiled, params: list[Any]) -> str:
    """The statement as SQL that runs as it stands."""
    documents = {at for at, texts in compiled.json if texts or not isinstance(params[at], str)}
    literals = iter([_literal(value, is_json=at in documents) for at, value in enumerate(params)])
    return _MARK.sub(lambda mark: "%" if mark[0] == "%%" else next(literals), compiled.sql)


def _literal(value: Any, *, is_json: bool) -> str:
    if value is None:
        return "NULL"
    if is_json:
        return _quoted(json.dumps(value, ensure_ascii=False, default=str))
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, (int, float)) and math.isfinite(value):
        return str(value) if value >= 0 else f"({value})"
    return _quoted(_text(value))


def _text(value: Any) -> str:
    """A value as Postgres reads it."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, (list, tuple)):
        return "{" + ",".join(_element(item) for item in value) + "}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex()
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _element(value: Any) -> str:
    text = _text(value)
    if value is None or isinstance(value, (list, tuple)):
        return text
    if _PLAIN.fullmatch(text) and text.lower() != "null":
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quoted(text: str) -> str:
    return exp.Literal.string(text).sql(dialect="postgres")
