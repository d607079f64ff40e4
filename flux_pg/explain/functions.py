"""Whether the functions that a statement calls do the same whoever runs it.

A function with its caller's rights that reads tables sees other rows when the preview's runner
calls it than when the role does; no edit of the statement's text can mend that. Postgres's own
functions are judged in `session`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlglot.tokenizer_core import TokenType

from flux_pg.explain import rights
from flux_pg.explain.catalog import Function
from flux_pg.explain.text import Text, word

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
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


def check_calls(compiler: Compiler, text: Text, place: Place) -> None:
    """Note every call in a text that is refused or whose answer depends on who runs it."""
    for number, token in enumerate(text.tokens[:-1]):
        if text.tokens[number + 1].token_type != TokenType.L_PAREN:
            continue
        if token.token_type in (TokenType.STRING, TokenType.NUMBER):
            continue
        dotted = number >= 2 and text.tokens[number - 1].token_type == TokenType.DOT
        schema = word(text.tokens[number - 2]) if dotted else ""
        found = compiler.catalog.functions_named(schema, word(token), compiler.session.role)
        if not found:
            continue
        name = f"{found[0].schema}.{found[0].name}"
        if not any(_may_execute(compiler, function, place) for function in found):
            compiler.refuse(f"permission denied for function {name}")
        reason = next((why for function in found if (why := doubt(function))), None)
        if reason is not None:
            compiler.unsupported(f"{name}(), {reason}")


def _may_execute(compiler: Compiler, function: Function, place: Place) -> bool:
    return rights.has_grant(compiler.catalog, place.role, function.grants, "EXECUTE")


def doubt(function: Function) -> str | None:
    """Why a function's answer may depend on who calls it; None if it cannot."""
    body = _COMMENT.sub(" ", function.body)
    if function.security_definer:
        about = _ABOUT_SESSION.search(body)
        return f"whose body reads {about[0]}" if about else None
    if function.volatility == "immutable":
        return None
    if function.language in ("sql", "plpgsql"):
        telling = _TELLING.search(body)
        if telling is None:
            return None
        return f"which runs with its caller's rights and whose body has {telling[0].upper()}"
    if function.language in ("c", "internal"):
        return None
    return f"which runs with its caller's rights in {function.language}"
