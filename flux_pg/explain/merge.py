"""The preview of MERGE: its target as the role sees it, each action's row judged before it is
written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from flux_pg.explain.harmless import is_fine
from flux_pg.explain.policies import CHECK, Rules, rules
from flux_pg.explain.proposed import Proposed
from flux_pg.explain.text import Text, quoted, word

if TYPE_CHECKING:
    from flux_pg.explain.write import Write


def merge(write: Write, node: exp.Merge, first: int, touched: bool) -> None:
    """Edit a MERGE: its target, and the condition of each of its actions."""
    proposed, text = Proposed(write), write.text
    if touched and not proposed.is_possible("INSERT", "UPDATE", "DELETE"):
        return
    words = {number: text.keyword(number) for number in text.level(first)}
    on = next((n for n, name in words.items() if name == "on"), None)
    whens = [n for n, name in words.items() if name == "when" and not _in_case(words, n)]
    joined = node.args["using"].args.get("joins")
    if on is None or joined or len(whens) != len(node.args["whens"].expressions):
        write.compiler.unsupported("MERGE that is not understood")
        return
    visible = _seen(write) if touched else None
    if visible is not None:
        start, end = text.tokens[on + 1].start, text.tokens[whens[0] - 1].end + 1
        harmless = is_fine(node.args["on"])
        text.insert(start, f"{visible} and (" if harmless else f"case when {visible} then (")
        text.insert(end, ")" if harmless else ") else false end")
    ends = [*whens[1:], text.clauses(first, "returning").get("returning", max(words) + 1)]
    for when, end in zip(whens, ends, strict=True):
        _judge_action(write, proposed, (when, end), visible)


def _seen(write: Write) -> str:
    """The condition on the rows of MERGE's target that the role may see."""
    compiler, role = write.compiler, write.place.role
    # Whatever its actions, Postgres looks up all of these, and asks for rights to what they read.
    for command in ("UPDATE", "DELETE"):
        compiler.condition(_only_using(write, command), write.place, None)
    for command in ("INSERT", "UPDATE"):
        check = rules(compiler.catalog, write.relation, role, command, CHECK)
        compiler.condition([check], write.place, None)
    if not write.ref.is_read:
        return "true"
    seen = rules(compiler.catalog, write.relation, role, "SELECT")
    return compiler.condition([seen], write.place, write.ref.alias)


def _in_case(words: Mapping[int, str], number: int) -> bool:
    """Whether a WHEN belongs to a CASE before it."""
    before = [name for place, name in words.items() if place < number]
    return before.count("case") > before.count("end")


def _judge_action(
    write: Write, proposed: Proposed, stretch: tuple[int, int], visible: str | None
) -> None:
    """Edit one WHEN; `visible` is None where row-level security does not touch the role."""
    text, (when, end) = write.text, stretch
    words = {n: text.keyword(n) for n in text.level(when) if n < end}
    then = next((n for n, name in words.items() if name == "then" and not _in_case(words, n)), None)
    matched = next((n for n, name in words.items() if name == "matched"), None)
    if then is None or matched is None:
        write.compiler.unsupported("a WHEN of MERGE that is not understood")
        return
    by = [words.get(matched + 1), words.get(matched + 2)]
    condition = matched + 2 if by[0] == "by" else matched
    tests = _tests(write, proposed, then + 1) if visible is not None else []
    if words[then + 1] == "update":
        write.set_defaults(then + 1, end)
    elif words[then + 1] == "insert":
        _write_out_missing(write, proposed, then + 1)
    if not tests:
        return
    guard = f"{visible} and " if by == ["by", "source"] else ""
    failure = _insert_failure(write) if words[then + 1] == "insert" else write.failure()
    judged = f"case when {' and '.join(tests)} then true else {failure} end"
    if condition + 1 == then:
        text.insert(text.tokens[condition].end + 1, f" and {guard}{judged}")
    else:
        start = text.tokens[condition + 2].start
        text.insert(start, f"{guard}case when (")
        text.insert(text.tokens[then - 1].end + 1, f") then {judged} else false end")


def _tests(write: Write, proposed: Proposed, action: int) -> list[str]:
    """What an action's row must pass."""
    name = write.text.keyword(action)
    if name == "update":
        return [
            proposed.existing(_only_using(write, "UPDATE")),
            proposed.judged(proposed.rules("UPDATE", CHECK), proposed.assigned(action + 1)),
        ]
    if name == "delete":
        return [proposed.existing(_only_using(write, "DELETE"))]
    if name == "insert":
        check = [rules(write.compiler.catalog, write.relation, write.place.role, "INSERT", CHECK)]
        if _has_returning(write):
            check = proposed.rules("INSERT", CHECK)
        return [proposed.judged(check, _inserted(write, proposed, action))]
    return []


def _only_using(write: Write, command: str) -> list[Rules]:
    role = write.place.role
    return [
        rules(write.compiler.catalog, write.relation, role, command, CHECK, force_using=True)
    ]  # fmt: skip


def _has_returning(write: Write) -> bool:
    return write.statement is not None and write.statement.args.get("returning") is not None


def _insert_failure(write: Write) -> str:
    """There is no row yet to name; what is constant must not be folded while planning."""
    message = f"new row violates row-level security policy for table {write.relation.qualified}"
    return f"concat('{message.replace(chr(39), chr(39) * 2)}', clock_timestamp() - now())::boolean"


@dataclass(frozen=True)
class _Insert:
    """An INSERT of MERGE: the items of its values by column, and where its lists stand."""

    given: dict[str, list[int]]
    values: int
    columns_end: int | None


def _read_insert(write: Write, proposed: Proposed, insert: int) -> _Insert | None:
    text = write.text
    names, place, named = list(write.relation.column_names), insert + 1, None
    if text.tokens[place].token_type == TokenType.L_PAREN:
        names = [word(text.tokens[item[0]]) for item in proposed.listed(place)]
        place = _after(text, place)
        named = place - 1
    if text.keyword(place) != "values":
        write.compiler.unsupported("an INSERT of MERGE that is not understood")
        return None
    items = proposed.listed(place + 1)
    return _Insert(dict(zip(names, items, strict=False)), place, named)


def _inserted(write: Write, proposed: Proposed, insert: int) -> dict[str, str]:
    """The values of a new row of MERGE."""
    found = _read_insert(write, proposed, insert)
    given = found.given if found is not None else {}
    return proposed.defaults() | {
        name: proposed.value(name, item) for name, item in given.items()
    }  # fmt: skip


def _write_out_missing(write: Write, proposed: Proposed, insert: int) -> None:
    """Write out the defaults of a new row that depend on the session."""
    text, personal = write.text, write.personal_defaults()
    found = _read_insert(write, proposed, insert)
    if found is None or not personal:
        return
    for name, item in found.given.items():
        if name in personal and [text.keyword(n) for n in item] == ["default"]:
            write.replace_token(item[0], personal[name])
    missing = [name for name in personal if name not in found.given]
    if not missing:
        return
    columns = "".join(f", {quoted(name)}" for name in missing)
    if found.columns_end is None:
        listed = ", ".join(map(quoted, found.given))
        text.insert(text.tokens[found.values].start, f"({listed}{columns}) ")
    else:
        text.insert(text.tokens[found.columns_end].start, columns)
    added = "".join(f", {personal[name]}" for name in missing)
    text.insert(text.tokens[_after(text, found.values + 1) - 1].start, added)


def _after(text: Text, opening: int) -> int:
    """The token after the bracket that closes an opening one."""
    depth = 0
    for number in range(opening, len(text.tokens)):
        kind = text.tokens[number].token_type
        depth += (kind == TokenType.L_PAREN) - (kind == TokenType.R_PAREN)
        if depth == 0:
            return number + 1
    return len(text.tokens)
