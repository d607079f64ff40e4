"""Keeping secrets out of what is written: the one door in Python (law 6).

A value is secret by its name: key of an object, header, query parameter, environment variable.
Names are compared in lower case with the LIKE patterns of `flux.redactions`, the same rules that
the row trigger applies. A secret is replaced by `redacted:<16 hex>`, a keyed hash of its text:
equal secrets can still be seen to be equal, nothing else can be learnt. What is not secret keeps
its identity: a value in which nothing matches is returned itself, not a copy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote_plus

import msgspec

from ..records import SpanRecord

MARK = "redacted:"

DEFAULT_PATTERNS = (
    "%password%", "%passwd%", "%passphrase%", "%secret%", "%token%", "%api_key%", "%api-key%",
    "%apikey%", "%private_key%", "%authorization%", "cookie", "set-cookie", "%credit_card%",
    "%card_number%", "cvv", "cvc", "ssn",
)  # fmt: skip
"""What `flux.redactions` holds when nobody changed it."""

# Told by their type alone, which is much cheaper than to ask whether they are a Mapping.
TABLE_COLUMNS = """
select c.relname, a.attname
from pg_catalog.pg_class as c
join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relkind in ('r', 'p', 'v')
    and c.relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
"""
"""What `learn_tables` takes: they tell which tables' rows may be quoted in an error."""

SHORTEST_QUOTED = 4
"""Shorter secrets are left where they are quoted: they would tear ordinary words apart."""

_SCALARS = frozenset({str, int, float, bool, type(None), bytes})
_MAX_NAMES = 20_000  # decisions kept; names beyond are decided anew (a flood of random keys)
_REDACTED = re.compile(r"redacted:[0-9a-f]{16}")
_KEY = re.compile(r"Key \((.*?)\)=\(.*\)(.*)", re.S)
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<authority>[^/?#]*)(?P<rest>.*)", re.S)


def _like(pattern: str) -> str:
    """A LIKE pattern as a regular expression: `%` any text, `_` one character, `\\` escapes."""
    parts: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            parts.append(".*")
        elif character == "_":
            parts.append(".")
        else:
            parts.append(re.escape(next(characters, "\\") if character == "\\" else character))
    return "".join(parts)


class Redactor:
    """One deployment's rules.

    Args:
        rules: LIKE patterns over lower-cased names (`flux.redactions`).
        key: Key of the hashes (`flux.redaction_key()`).
    """

    def __init__(self, rules: Iterable[str] = DEFAULT_PATTERNS, key: bytes = b"") -> None:
        patterns = [_like(rule.lower()) for rule in rules]
        self._matches = re.compile("|".join(patterns), re.S).fullmatch if patterns else None
        self._key = key
        self._decisions: dict[str, bool] = {}
        self._shown: dict[str, bool] = {}

    def is_secret(self, name: str) -> bool:
        """Whether values under this name are secret."""
        decision = self._decisions.get(name)
        if decision is None:
            # Names are written `apiKey`, `api-key`, `API_KEY`: all are the pattern's `api_key`.
            lower = name.lower()
            match = self._matches
            decision = match is not None and bool(match(lower) or match(lower.replace("-", "_")))
            if len(self._decisions) < _MAX_NAMES:
                self._decisions[name] = decision
        return decision

    def mark(self, value: Any) -> str:
        """What stands in for a secret. One that is a mark already stays as it is."""
        if isinstance(value, str):
            if _REDACTED.fullmatch(value):
                return value
            data = value.encode("utf-8", "surrogatepass")
        elif isinstance(value, (bytes, bytearray, memoryview)):
            data = bytes(value)
        elif hasattr(type(value), "__flux_mark__"):
            mark: str = value.__flux_mark__()
            return mark
        else:
            # The text that Postgres would show for it: true, 12, {"a":1}.
            data = msgspec.json.encode(value, enc_hook=str)
        inner = hashlib.sha256(self._key + data).digest()
        return MARK + hashlib.sha256(self._key + inner).hexdigest()[:16]

    def value(self, value: Any, found: set[str] | None = None) -> Any:
        """A JSON-ready value without what its object keys call secret, at any depth.

        Under a secret key the whole value goes, whatever it is; only null stays.

        Args:
            value: Objects, arrays and scalars; not changed.
            found: Collects the secret strings, so that error texts can be scrubbed of them.
        """
        if type(value) in _SCALARS:
            return value
        if isinstance(value, Mapping):
            return self._mapping(value, found)
        if isinstance(value, (list, tuple)):
            return self._sequence(value, found)
        return value

    def spans(self, spans: Iterable[SpanRecord], found: set[str] | None = None) -> None:
        """Take the secrets out of spans that were made before the runtime: the gateway's."""
        for span in spans:
            span.input = self.value(span.input, found)
            span.output = self.value(span.output, found)

    def _mapping(self, value: Mapping[Any, Any], found: set[str] | None) -> Any:
        changed: dict[Any, Any] | None = None
        for key, item in value.items():
            if item is None:
                continue
            if self.is_secret(key if type(key) is str else str(key)):
                new: Any = self.mark(item)
                _collect(item, found)
            elif type(item) in _SCALARS:
                continue
            else:
                new = self.value(item, found)
            if new is not item:
                changed = dict(value) if changed is None else changed
                changed[key] = new
        return value if changed is None else changed

    def _sequence(self, value: Sequence[Any], found: set[str] | None) -> Any:
        changed: list[Any] | None = None
        for index, item in enumerate(value):
            if type(item) not in _SCALARS:
                new = self.value(item, found)
                if new is not item:
                    changed = list(value) if changed is None else changed
                    changed[index] = new
        return value if changed is None else changed

    def pairs(
        self, pairs: Iterable[tuple[str, str]], found: set[str] | None = None
    ) -> list[tuple[str, str]]:
        """A list of names and values (headers, form fields, query parameters), in order."""
        cleaned = []
        for name, item in pairs:
            if self.is_secret(name):
                _collect(item, found)
                cleaned.append((name, self.mark(item)))
            else:
                cleaned.append((name, item))
        return cleaned

    def headers(
        self, headers: Iterable[tuple[str, str]], found: set[str] | None = None
    ) -> list[tuple[str, str]]:
        """A header list; URLs in `location`, `referer` and the like are cleaned too."""
        return [
            (name, self.url(item, found) if "://" in item or "?" in item else item)
            for name, item in self.pairs(headers, found)
        ]

    def url(self, url: str, found: set[str] | None = None) -> str:
        """A URL without its user information's password and its secret parameters.

        A fragment is treated like a query (tokens travel there too).
        """
        match = _URL.fullmatch(url)
        prefix, rest = ("", url)
        if match is not None:
            authority = self._authority(match["authority"], found)
            prefix, rest = match["scheme"] + authority, match["rest"]
        if "?" not in rest and "#" not in rest:
            return prefix + rest
        head, *parts = re.split(r"([?#])", rest)
        for index in range(1, len(parts), 2):
            parts[index] = self.query(parts[index], found)
        return prefix + head + "".join(parts)

    def _authority(self, authority: str, found: set[str] | None) -> str:
        user, at, host = authority.rpartition("@")
        if not at:
            return authority
        name, colon, password = user.partition(":")
        if not colon:
            # A user alone is often a token: https://ghp_...@host.
            _collect(unquote_plus(name), found)
            return f"{self._in_url(name)}@{host}" if name else authority
        _collect(unquote_plus(password), found)
        return f"{name}:{self._in_url(password)}@{host}"

    def query(self, query: str, found: set[str] | None = None) -> str:
        """A query string (or a urlencoded form); what is not secret stays byte for byte."""
        if "=" not in query:
            return query
        parts = re.split("([&;])", query)
        for index in range(0, len(parts), 2):
            name, equals, item = parts[index].partition("=")
            if equals and self.is_secret(unquote_plus(name)):
                _collect(unquote_plus(item), found)
                parts[index] = f"{name}={self._in_url(item)}"
        return "".join(parts)

    def _in_url(self, item: str) -> str:
        return quote(self.mark(unquote_plus(item)), safe=":")

    def scrub(self, text: str, secrets: Iterable[str]) -> str:
        """`text` without secrets found elsewhere in the same request (an error that quotes one).

        Those shorter than SHORTEST_QUOTED are left.
        """
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) >= SHORTEST_QUOTED and secret in text:
                text = text.replace(secret, self.mark(secret))
        return text

    def scrub_texts(self, value: Any, secrets: Iterable[str]) -> Any:
        """`scrub` for every text of a JSON-ready value but the names of its objects."""
        return map_texts(value, lambda text: self.scrub(text, secrets))

    def detail(self, detail: str, tables: Iterable[str | None]) -> str:
        """What Postgres adds to a message, without the values of secret columns.

        A failing row is shown only if its table is known to have no secret column.
        """
        if detail.startswith("Failing row contains ("):
            known = [self.shows(table or "") for table in tables]
            return detail if any(known) else "Failing row contains (redacted)."
        key = _KEY.match(detail)
        if key is not None and any(self.is_secret(name.strip(' "')) for name in key[1].split(",")):
            return f"Key ({key[1]})=(redacted){key[2]}"
        return detail

    def shows(self, table: str) -> bool:
        """Whether every table of this name is known to have no secret column."""
        return self._shown.get(table, False)

    def learn_tables(self, columns: Iterable[tuple[str, str]]) -> None:
        """Which tables may be shown: pairs of a table's name and one of its columns."""
        for table, column in columns:
            self._shown[table] = self._shown.get(table, True) and not self.is_secret(column)


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON-ready value with every text in it changed, but for the names of its objects."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_texts(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_texts(item, change) for item in value]
    return value


def _collect(item: Any, found: set[str] | None) -> None:
    if found is None:
        return
    if isinstance(item, str):
        found.add(item)
    elif isinstance(item, Mapping):
        for inner in item.values():
            _collect(inner, found)
    elif isinstance(item, (list, tuple)):
        for inner in item:
            _collect(inner, found)
