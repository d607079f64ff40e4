"""The preview of ON CONFLICT and MERGE: rows are judged before they are written.

There a policy asks for more than RETURNING can see: a proposed row is judged even if it then
conflicts, and an existing row that may not be updated is an error, not a row left out. So the
preview judges the row that is to be, built from the statement's own expressions, in the condition
of each action. That is exact only where nothing changes the row in between (BEFORE triggers,
generated columns) and where evaluating an expression twice gives the same (nothing volatile);
everything else is named as unsupported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from flux_pg.explain.harmless import is_fine
from flux_pg.explain.names import TableRef
from flux_pg.explain.policies import CHECK, Rules, rules
from flux_pg.explain.preview import Compiler, Place
from flux_pg.explain.text import Text, literal, quoted, word

if TYPE_CHECKING:
    from flux_pg.explain.write import Write

_VOLATILE = re.compile(
    r"\b(nextval|random\w*|gen_random_uuid|uuidv[47]|clock_timestamp|timeofday|txid_current\w*)\s*\(",
    re.IGNORECASE,
)
_ENDS = ("where", "returning", "when")


class Proposed:
    """Builds rows that are to be, and the conditions that judge them.

    Args:
        write: The write, for its failures and defaults.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._compiler: Compiler = write.compiler
        self._text: Text = write.text
        self._ref: TableRef = write.ref
        self._place: Place = write.place

    def is_possible(self, *events: str) -> bool:
        """Whether rows can be judged before they are written; notes why not."""
        relation = self._ref.relation
        for trigger in relation.triggers:
            is_first = trigger.timing == "BEFORE" and trigger.level == "ROW"
            if is_first and set(events) & set(trigger.events):
                self._compiler.unsupported(
                    f"trigger {trigger.name} on {relation.qualified}, which may change a row"
                    " before ON CONFLICT or MERGE judges it"
                )
                return False
        if any(column.generated or column.identity == "always" for column in relation.columns):
            self._compiler.unsupported(f"generated columns of {relation.qualified} in this write")
            return False
        return True

    def rules(self, command: str, clause: str) -> list[Rules]:
        """What judges a row; SELECT's policies too if the table is looked at."""
        catalog, role, relation = self._compiler.catalog, self._place.role, self._ref.relation
        using = clause != CHECK
        found = [rules(catalog, relation, role, command, CHECK, force_using=using)]
        if self._ref.is_read:
            found.append(rules(catalog, relation, role, "SELECT", CHECK, force_using=True))
        return found

    def existing(self, found: Sequence[Rules]) -> str:
        """The condition on the row that is there."""
        return self._compiler.condition(found, self._place, self._ref.alias)

    def judged(self, found: Sequence[Rules], values: Mapping[str, str]) -> str:
        """The condition on a new row of these values."""
        condition = self._compiler.condition(found, self._place, None)
        if condition in ("true", "(true)", "false"):
            return condition
        for name, value in values.items():
            if self._is_volatile(value):
                self._compiler.unsupported(f"a volatile value for {name} in this write")
        name = quoted(self._ref.relation.name)
        return f"(select {condition} from (select {self.row(values)}) as {name})"

    def _is_volatile(self, value: str) -> bool:
        """Whether a value may be another one when it is evaluated again."""
        functions = (
            function
            for token in Text(value).tokens
            for function in self._compiler.catalog.functions_named(
                "", word(token), self._place.role
            )
        )
        return bool(_VOLATILE.search(value)) or any(f.volatility == "volatile" for f in functions)

    def row(self, values: Mapping[str, str]) -> str:
        """A list of columns with values, each of its column's type."""
        parts = []
        for column in self._ref.relation.columns:
            value = values.get(column.name)
            if value is None:
                value = f"{quoted(self._ref.alias)}.{quoted(column.name)}"
            parts.append(f"cast({value} as {plain_type(column.type)}) as {quoted(column.name)}")
        return ", ".join(parts)

    def defaults(self) -> dict[str, str]:
        """What a new row has where nothing is given."""
        found = {}
        for column in self._ref.relation.columns:
            if column.identity:
                relation = self._ref.relation
                table = literal(f"{quoted(relation.schema)}.{quoted(relation.name)}")
                sequence = f"pg_get_serial_sequence({table}, {literal(column.name)})"
                found[column.name] = f"nextval({sequence})"
            else:
                found[column.name] = self._write.default_of(column.name) or "null"
        return found

    def assigned(self, first: int) -> dict[str, str]:
        """The values that SET gives, by column; `first` is the token SET."""
        found: dict[str, str] = {}
        for item in self._items(first + 1, _ENDS):
            equals = next(
                (n for n in item if self._text.tokens[n].token_type == TokenType.EQ), None
            )
            left = [n for n in item if equals is None or n < equals]
            right = [n for n in item if equals is not None and n > equals]
            if not right or len(left) not in (1, 2):
                self._compiler.unsupported("an assignment that is not understood")
            elif len(left) == 1:
                name = word(self._text.tokens[left[0]])
                found[name] = self._value(name, right)
            else:
                found |= self._tuple(left[0], right[0])
        return found

    def _tuple(self, left: int, right: int) -> dict[str, str]:
        """The values of `(a, b) = (x, y)`."""
        names = [word(self._text.tokens[item[0]]) for item in self._items(left + 1, ())]
        if self._text.keyword(right) == "row":
            right += 1
        values = list(self._items(right + 1, ()))
        if len(names) != len(values) or self._text.tokens[right].token_type != TokenType.L_PAREN:
            self._compiler.unsupported("a row of assignments that is not understood")
            return {}
        return {
            name: self._value(name, item) for name, item in zip(names, values, strict=True)
        }  # fmt: skip

    def listed(self, opening: int) -> list[list[int]]:
        """The items in brackets, each as the tokens at its own level."""
        return list(self._items(opening + 1, ()))

    def value(self, name: str, item: Sequence[int]) -> str:
        """A value as it stands in the text, DEFAULT written out."""
        return self._value(name, item)

    def _value(self, name: str, item: Sequence[int]) -> str:
        tokens = self._text.tokens
        if len(item) == 1 and self._text.keyword(item[0]) == "default":
            return self.defaults().get(name, "null")
        return self._text.slice(tokens[item[0]].start, tokens[item[-1]].end + 1)

    def _items(self, first: int, ends: Sequence[str]) -> list[list[int]]:
        items: list[list[int]] = [[]]
        for number in self._text.level(first):
            token = self._text.tokens[number]
            if self._text.keyword(number) in ends:
                break
            if token.token_type == TokenType.COMMA:
                items.append([])
            else:
                items[-1].append(number)
        return items


def plain_type(name: str) -> str:
    """A type without its modifier, so that a cast to it cuts nothing off."""
    bare = re.sub(r"\([^)]*\)", "", name)
    return {"character": "bpchar", "bit": "varbit"}.get(bare, bare)


def conflict(write: Write, node: exp.Insert, first: int) -> None:
    """Edit an INSERT with ON CONFLICT."""
    proposed, text = Proposed(write), write.text
    clause = node.args["conflict"]
    updates = bool(clause.expressions)
    if not proposed.is_possible("INSERT", *(["UPDATE"] if updates else [])):
        return
    _judge_source(write, proposed, node, first)
    if not updates:
        return
    place = update_of_conflict(text, first)
    if place is None:
        write.compiler.unsupported("ON CONFLICT that is not understood")
        return
    values = proposed.assigned(place + 1)
    write.set_defaults(place)
    judged = [
        proposed.existing(proposed.rules("UPDATE", "USING")),
        proposed.judged(proposed.rules("UPDATE", CHECK), values),
    ]
    check = f"case when {' and '.join(judged)} then true else {write.failure()} end"
    clauses = text.clauses(place, "where", "returning")
    last = clauses.get("returning", clauses["end"] + 1) - 1
    end = text.tokens[last].end + 1
    if "where" in clauses:
        start = text.tokens[clauses["where"] + 1].start
        text.insert(start, "case when (")
        text.insert(end, f") then {check} else false end")
    else:
        text.insert(end, f" where {check}")


def update_of_conflict(text: Text, first: int) -> int | None:
    """The token UPDATE of DO UPDATE SET; None if there is none."""
    words = ["do", "update", "set"]
    for number in text.level(first):
        if [text.keyword(number + step) for step in range(3)] == words:
            return number + 1
    return None


def _judge_source(write: Write, proposed: Proposed, node: exp.Insert, first: int) -> None:
    """Have the proposed rows pass a judgement on their way into INSERT."""
    text, relation = write.text, write.relation
    clauses = text.clauses(first, "values", "select", "with", "on", "returning")
    starts = [clauses[name] for name in ("values", "select", "with") if name in clauses]
    given = write.given_columns(node)
    stars = isinstance(node.expression, exp.Select) and node.expression.is_star
    if not starts or "on" not in clauses or stars or node.args.get("default"):
        write.compiler.unsupported("ON CONFLICT with rows that are not understood")
        return
    source = min(starts)
    if text.keyword(source) != "values" and not isinstance(node.expression, exp.Select):
        write.compiler.unsupported("ON CONFLICT with a source that is not understood")
        return
    # The last ON at this level is the conflict's: a SELECT's own joins come before it.
    on = next(
        (
            number
            for number in text.level(first)
            if [text.keyword(number), text.keyword(number + 1)] == ["on", "conflict"]
        ),
        clauses["on"],
    )
    values = proposed.defaults()
    values |= {name: f"given.{quoted(name)}" for name in given}
    if text.keyword(source) == "values":
        _write_out_defaults(write, proposed, source, given)
    condition = write.compiler.condition(proposed.rules("INSERT", CHECK), write.place, None)
    name = quoted(relation.name)
    failure = write.failure(relation.name)
    names = ", ".join(quoted(column.name) for column in relation.columns)
    head = (
        f"select {', '.join(f'{name}.{quoted(c.name)}' for c in relation.columns)}"
        f" from (select {proposed.row(values)} from ("
    )
    tail = (
        # The fence keeps the judgement from rows that the source's own conditions leave out.
        f") as given ({', '.join(map(quoted, given))}) offset 0) as {name}"
        f" where case when {condition} then true else {failure} end"
    )
    start = _after_target(write, node, first)
    text.replace(start, text.tokens[source].start, f" ({names}) {head}")
    text.insert(text.tokens[on - 1].end + 1, tail)


def _after_target(write: Write, node: exp.Insert, first: int) -> int:
    """Where the target of an INSERT ends, its alias included; its columns are named anew."""
    text = write.text
    last = first
    if text.keyword(last + 1) == "as":
        last += 2
    return text.tokens[last].end + 1


def _write_out_defaults(
    write: Write, proposed: Proposed, values: int, given: Sequence[str]
) -> None:
    text, defaults = write.text, proposed.defaults()
    for number in text.level(values + 1):
        kind = text.tokens[number].token_type
        if kind == TokenType.L_PAREN:
            for name, item in zip(given, proposed.listed(number), strict=False):
                if len(item) == 1 and text.keyword(item[0]) == "default":
                    token = text.tokens[item[0]]
                    text.replace(token.start, token.end + 1, defaults[name])
        elif kind not in (TokenType.COMMA, TokenType.R_PAREN):
            break


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
