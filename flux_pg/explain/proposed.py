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
from typing import TYPE_CHECKING

from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from flux_pg.explain.policies import CHECK, Rules, rules
from flux_pg.explain.preview import Compiler, Place
from flux_pg.explain.sources import TableRef
from flux_pg.explain.text import Text, literal, quoted, word
from flux_pg.explain.triggers import with_children

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
        tables = with_children(self._compiler.catalog, relation)
        for trigger in [trigger for table in tables for trigger in table.triggers]:
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
        if self._text.keyword(right + 1) in ("select", "with", "values", "table", "("):
            return self._from_query(names, right)
        values = list(self._items(right + 1, ()))
        if len(names) != len(values) or self._text.tokens[right].token_type != TokenType.L_PAREN:
            self._compiler.unsupported("a row of assignments that is not understood")
            return {}
        return {
            name: self._value(name, item) for name, item in zip(names, values, strict=True)
        }  # fmt: skip

    def _from_query(self, names: Sequence[str], opening: int) -> dict[str, str]:
        """The values of `(a, b) = (select …)`."""
        inside = list(self._text.level(opening + 1))
        query = self._text.slice(
            self._text.tokens[inside[0]].start, self._text.tokens[inside[-1]].end + 1
        )
        if self._is_volatile(query):
            self._compiler.unsupported(f"a volatile value for {', '.join(names)} in this write")
        columns = ", ".join(map(quoted, names))
        return {
            name: f"(select given.{quoted(name)} from ({query}) as given ({columns}))"
            for name in names
        }

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
    if write.ref.alias == "excluded":
        # The preview's own words could not tell the table from the row that is proposed.
        write.compiler.unsupported("ON CONFLICT that is not understood")
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
