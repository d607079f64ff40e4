"""Whether the functions that a statement calls do the same whoever runs it.

A function with its caller's rights that reads tables sees other rows when the preview's runner
calls it than when the role does; no edit of the statement's text can mend that. One that only reads
the session, such as `auth.uid()`, is written out. Postgres's own functions are judged in `session`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import TokenType

from flux_pg.explain import rights
from flux_pg.explain.catalog import Catalog, Function
from flux_pg.explain.session import is_claim_function, put_in
from flux_pg.explain.text import Text, one_line, word

if TYPE_CHECKING:
    from flux_pg.explain.preview import Compiler, Place

# Words in a body after which its answer may depend on who calls it.
_TELLING = re.compile(
    r"\b(from|insert|update|delete|merge|perform|execute|into|table|copy|call|do|current_user"
    r"|session_user|current_role|user|current_setting|set_config|current_schema|current_schemas"
    r"|\w*has_\w+|row_security_active|nextval|setval|query_to_xml)\b",
    re.IGNORECASE,
)
_ABOUT_SESSION = re.compile(r"\b(session_user|current_setting|set_config)\b", re.IGNORECASE)
_CALLED = re.compile(r'(\w+)"?\s*\(')
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


def check_calls(compiler: Compiler, text: Text, place: Place) -> None:
    """Note every call in a text that is refused or whose answer depends on who runs it."""
    for number, token in enumerate(text.tokens[:-1]):
        if text.tokens[number + 1].token_type != TokenType.L_PAREN:
            continue
        if token.token_type in (TokenType.STRING, TokenType.NUMBER):
            continue
        if is_claim_function(text, number):
            continue  # written out, like a setting
        dotted = number >= 2 and text.tokens[number - 1].token_type == TokenType.DOT
        schema = word(text.tokens[number - 2]) if dotted else ""
        found = compiler.catalog.functions_named(schema, word(token), compiler.session.role)
        if not found:
            continue
        name = f"{found[0].schema}.{found[0].name}"
        if len(found) == 1 and text.keyword(number + 2) == ")":
            value = _value(compiler, found[0], place)
            if value is not None:
                start = text.tokens[number - 2 if dotted else number].start
                text.replace(start, text.tokens[number + 2].end + 1, value)
                continue
        if not any(_may_execute(compiler, function) for function in found):
            compiler.refuse(f"permission denied for function {name}")
        reason = next(
            (why for function in found if (why := doubt(compiler.catalog, function))), None
        )
        if reason is not None:
            compiler.unsupported(f"{name}(), {reason}")


def _value(compiler: Compiler, function: Function, place: Place) -> str | None:
    """What a function such as `auth.uid()` gives, as an expression; None if it must be called.

    Only functions without arguments whose body is one SELECT from nothing: they read the session.
    """
    mark = f"function {function.schema}.{function.name}"
    is_value = function.language == "sql" and not function.arguments and not function.returns_set
    if not is_value or function.volatility == "volatile" or mark in place.within:
        return None
    if doubt(compiler.catalog, function) is None or not _may_execute(compiler, function):
        return None
    body = function.body.strip().rstrip(";").rstrip()
    if body.lower().startswith("return "):
        body = f"select {body[len('return ') :]}"
    try:
        tree = sqlglot.parse_one(body, dialect="postgres")
    except SqlglotError:
        return None
    if not isinstance(tree, exp.Select) or tree.find(exp.Table) is not None:
        return None
    text, session = Text(body), compiler.session
    if function.security_definer:
        session = replace(session, role=function.owner)
    for problem in put_in(text, session):
        compiler.unsupported(f"{mark} reads {problem}")
    check_calls(compiler, text, replace(place, within=(*place.within, mark)))
    return f"({one_line(text.edited())})::{function.returns}"


def _may_execute(compiler: Compiler, function: Function) -> bool:
    """Behind a view, too, the right to execute is asked of whoever runs the statement."""
    return rights.has_grant(
        compiler.catalog, compiler.session.role, function.grants, "EXECUTE"
    )  # fmt: skip


def doubt(
    catalog: Catalog, function: Function, seen: frozenset[Function] = frozenset()
) -> str | None:
    """Why a function's answer may depend on who calls it; None if it cannot.

    The functions that its body calls are looked at, too, by name.
    """
    if function in seen or function.language in ("c", "internal"):
        return None
    if function.language not in ("sql", "plpgsql"):
        if function.volatility == "immutable":
            return None
        kind = "its owner's" if function.security_definer else "its caller's"
        return f"which runs with {kind} rights in {function.language}"
    body = _COMMENT.sub(" ", function.body)
    telling = (_ABOUT_SESSION if function.security_definer else _TELLING).search(body)
    if telling is not None and function.security_definer:
        return f"whose body reads {telling[0]}"
    if telling is not None:
        return f"which runs with its caller's rights and whose body has {telling[0].upper()}"
    for called in dict.fromkeys(_CALLED.findall(body)):
        for other in catalog.functions_called(called.lower()):
            # What a definer's function calls runs with the definer's rights.
            definer = other.security_definer or function.security_definer
            inner = replace(other, security_definer=definer)
            reason = doubt(catalog, inner, seen | {function})
            if reason is not None:
                return f"which calls {other.schema}.{other.name}(), {reason}"
    return None
