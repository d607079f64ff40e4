"""What a statement learns from its session, put in as literals: who it is, and its claims.

`current_user` and its kin become the role that is asked about; `current_setting('name')` becomes
the value that was given for that setting. A setting that was not given is unset: NULL where
`missing_ok` is true, else the error that Postgres would raise. Settings without a dot in their name
are Postgres's own and stay as they are. Claims are settings: `flux.claims` and
`request.jwt.claims`, as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlglot.tokenizer_core import Token, TokenType

from flux_pg.explain.text import Text, literal, quoted, word

CLAIM_FUNCTIONS = ("claim", "claims")
"""Of schema flux: what the caller's token says."""

CLAIM_SETTINGS = ("flux.claims", "request.jwt.claims")
_ROLE_WORDS = ("current_user", "current_role", "user")
_PRIVILEGE_INQUIRIES = {
    "has_any_column_privilege": 3, "has_column_privilege": 4, "has_database_privilege": 3,
    "has_foreign_data_wrapper_privilege": 3, "has_function_privilege": 3,
    "has_language_privilege": 3, "has_parameter_privilege": 3, "has_schema_privilege": 3,
    "has_sequence_privilege": 3, "has_server_privilege": 3, "has_table_privilege": 3,
    "has_tablespace_privilege": 3, "has_type_privilege": 3, "pg_has_role": 3,
}  # fmt: skip
# What they give depends on who runs them, in a way that no literal can stand for.
_PERSONAL = frozenset(
    """
    row_security_active current_schema current_schemas set_config query_to_xml query_to_xmlschema
    query_to_xml_and_xmlschema table_to_xml table_to_xmlschema table_to_xml_and_xmlschema
    schema_to_xml schema_to_xmlschema schema_to_xml_and_xmlschema database_to_xml
    database_to_xmlschema database_to_xml_and_xmlschema cursor_to_xml ts_stat pg_stat_get_activity
    pg_read_file pg_read_binary_file pg_ls_dir pg_stat_file lo_get lo_put lo_import lo_export loread
    to_regclass system_user session_authorization
    """.split()
)


@dataclass(frozen=True)
class Session:
    """Whose statement it is.

    Attributes:
        role: The current role.
        login: The session's login.
        settings: Values of settings with a dot in their name, as given.
    """

    role: str
    login: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def claims(self) -> str | None:
        """The caller's claims, as JSON; None if there are none."""
        return self.settings.get(CLAIM_SETTINGS[0])

    @classmethod
    def make(
        cls, role: str, login: str, claims: Any = None, settings: Mapping[str, str] | None = None
    ) -> Session:
        """A session with claims, which are any JSON value, and other settings."""
        text = None if claims is None else json.dumps(claims, ensure_ascii=False)
        given = {} if text is None else dict.fromkeys(CLAIM_SETTINGS, text)
        return cls(role, login, {**given, **(settings or {})})


def put_in(text: Text, session: Session) -> list[str]:
    """Note the edits that make a text independent of its session.

    A literal that may be a column of a result keeps the name which the column had.

    Returns:
        What cannot be put in.
    """
    problems: list[str] = []
    for number, token in enumerate(text.tokens):
        if not _is_word(text, number):
            continue
        name = word(token)
        before = text.tokens[number - 1] if number else None
        is_call = _kind(text, number + 1) == TokenType.L_PAREN
        if is_call and is_claim_function(text, number):
            problem = _claim(text, number, session)
            if problem is not None:
                problems.append(problem)
        elif is_call:
            start = _start_of_call(text, number)
            if start is not None:
                problem = _call(text, number, start, name, session)
                if problem is not None:
                    problems.append(problem)
        elif token.token_type == TokenType.IDENTIFIER or _is_label(before):
            continue
        elif name in _ROLE_WORDS or name == "session_user":
            value = session.login if name == "session_user" else session.role
            if _kind(text, number + 1) != TokenType.DOT:
                _put(text, number, number, f"{literal(value)}::name", name)
        elif name in ("current_schema", "system_user"):
            problems.append(f"{name}, which depends on the session")
    return problems


def _put(text: Text, first: int, last: int, value: str, label: str) -> None:
    """Put a literal in the place of some tokens."""
    before, after = text.keyword(first - 1), text.keyword(last + 1)
    if before in ("select", ",", "distinct", "all", "returning") and after in (
        "",
        ",",
        ")",
        "from",
    ):
        value = f"(select {value} as {quoted(label)})"
    text.replace(text.tokens[first].start, text.tokens[last].end + 1, value)


def _is_word(text: Text, number: int) -> bool:
    """Whether a token is a name or keyword: strings of every kind differ from their text."""
    token = text.tokens[number]
    if token.token_type == TokenType.IDENTIFIER:
        return True
    first = token.text[:1]
    plain = [text.keyword(number)] == token.text.lower().split(maxsplit=1)[:1]
    return plain and (first.isalpha() or first == "_")


def _is_label(before: Token | None) -> bool:
    return before is not None and (
        before.token_type in (TokenType.DOT, TokenType.ALIAS) or before.text.lower() == "as"
    )


def _kind(text: Text, number: int) -> TokenType | None:
    return text.tokens[number].token_type if 0 <= number < len(text.tokens) else None


def _start_of_call(text: Text, number: int) -> int | None:
    """Where the call of a function of pg_catalog starts; None if it is another schema's."""
    if _kind(text, number - 1) != TokenType.DOT:
        return text.tokens[number].start
    schema = text.tokens[number - 2]
    return schema.start if word(schema) == "pg_catalog" else None


def _call(text: Text, number: int, start: int, name: str, session: Session) -> str | None:
    if name == "current_setting":
        return _current_setting(text, number, start, session)
    if name in _PERSONAL:
        return f"{name}(), whose answer depends on who runs it"
    wanted = _PRIVILEGE_INQUIRIES.get(name)
    if wanted is not None:
        inside = [text.tokens[n].token_type for n in text.level(number + 2)]
        if inside.count(TokenType.COMMA) + 1 < wanted:
            text.insert(text.tokens[number + 1].end + 1, f"{literal(session.role)}::name, ")
    return None


def is_claim_function(text: Text, number: int) -> bool:
    """Whether a name is that of flux.claim or flux.claims."""
    is_named = number >= 2 and _kind(text, number - 1) == TokenType.DOT
    schema = word(text.tokens[number - 2]) if is_named else ""
    return schema == "flux" and word(text.tokens[number]) in CLAIM_FUNCTIONS


def _claim(text: Text, number: int, session: Session) -> str | None:
    given = session.claims
    claims = json.loads(given) if given else None
    name, at = word(text.tokens[number]), number + 2
    if name == "claims":
        value = "null::jsonb" if claims is None else f"{literal(given or '')}::jsonb"
        if _kind(text, at) != TokenType.R_PAREN:
            return "flux.claims() with arguments"
    else:
        value = f"{_as_text(claims, text.tokens[at].text)}::text"
        cast = 2 if _kind(text, at + 1) == TokenType.DCOLON else 0  # 'sub'::text, as deparsed
        end = at + 1 + cast
        if _kind(text, at) != TokenType.STRING or _kind(text, end) != TokenType.R_PAREN:
            return "flux.claim() of a name that is computed"
        at = end
    _put(text, number - 2, at, value, name)
    return None


def _as_text(claims: Any, name: str) -> str:
    """What `claims ->> name` gives, as a literal."""
    value = claims.get(name) if isinstance(claims, dict) else None
    if value is None:
        return "null"
    if isinstance(value, str):
        return literal(value)
    # As jsonb writes it, which no other program does digit for digit.
    return f"({literal(json.dumps(value, ensure_ascii=False))}::jsonb #>> '{{}}')"


def _current_setting(text: Text, number: int, start: int, session: Session) -> str | None:
    at = number + 2
    if _kind(text, at) != TokenType.STRING:
        return "current_setting() of a name that is computed"
    name = text.tokens[at].text.lower()
    at += 1
    if _kind(text, at) == TokenType.DCOLON:
        at += 2
    missing_ok = False
    if _kind(text, at) == TokenType.COMMA:
        given = text.keyword(at + 1)
        if given not in ("true", "false"):
            return "current_setting() whose missing_ok is computed"
        missing_ok = given == "true"
        at += 2
    if _kind(text, at) != TokenType.R_PAREN:
        return "current_setting() with arguments that are not understood"
    first = text.token_at(start)
    if name == "role":
        _put(text, first, at, f"{literal(session.role)}::text", "current_setting")
    elif name in ("is_superuser", "session_authorization"):
        return f"the setting {name}, which depends on the session"
    elif "." in name and name in session.settings:
        value = f"{literal(session.settings[name])}::text"
        _put(text, first, at, value, "current_setting")
    elif "." in name and missing_ok:
        _put(text, first, at, "null::text", "current_setting")
    elif "." in name:
        return f'the setting "{name}", which is read but not given: Postgres would refuse'
    return None
