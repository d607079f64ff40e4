"""The preview of INSERT, UPDATE and DELETE: rows that a policy hides, and rows that it refuses.

Hidden rows are left out by the statement's WHERE. A new row that a policy refuses makes Postgres
fail; so does the preview, by an expression in RETURNING that cannot be evaluated for such a row,
and whose message names the table and the row. RETURNING sees the row as BEFORE triggers made it,
just as the policy does. Where the statement has no RETURNING, the preview returns the column
`allowed`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from flux_pg.explain import merge, proposed, rights
from flux_pg.explain.functions import check_calls, doubt
from flux_pg.explain.harmless import is_harmless
from flux_pg.explain.names import Names
from flux_pg.explain.policies import CHECK, Rules, rules
from flux_pg.explain.preview import Compiler, Place
from flux_pg.explain.session import put_in
from flux_pg.explain.sources import TableRef
from flux_pg.explain.text import Text, literal, name_of, quoted, word
from flux_pg.explain.triggers import triggers_of, with_children


def compile_writes(compiler: Compiler, text: Text, tree: exp.Expr, names: Names) -> None:
    """Note the edits on every write of a statement."""
    fenced = not is_harmless(tree)
    for ref in names.refs:
        if ref.command != "SELECT":
            Write(compiler, text, ref, Place(compiler.session.role, (), fenced)).compile()


class Write:
    """One write of a statement."""

    def __init__(self, compiler: Compiler, text: Text, ref: TableRef, place: Place) -> None:
        self.compiler = compiler
        self.text = text
        self.ref = ref
        self.place = place
        self.relation = ref.relation
        node = ref.node.parent
        self.statement = node.parent if isinstance(node, exp.Schema) else node

    def compile(self) -> None:
        """Note the edits."""
        if self.relation.kind == "view":
            self._check_view()
            return
        self._check_triggers()
        self._check_constraints()
        if self.relation.has_rules:
            self.compiler.unsupported(f"a rule on {self.relation.qualified}")
        touched = self.compiler.is_touched(self.relation, self.place.role)
        if touched and self.ref.system:
            self.compiler.unsupported(f"a system column of {self.relation.qualified}")
        position = self.text.span(self.ref.node.this)
        if position is None:
            self.compiler.unsupported(f"where {self.relation.qualified} stands in the text")
            return
        first = self.text.token_at(position[0])
        if isinstance(self.statement, exp.Insert):
            self._insert(self.statement, first, touched)
        elif isinstance(self.statement, exp.Update):
            self._update(first, touched)
        elif isinstance(self.statement, exp.Delete):
            if touched:
                self._hide(first, self._using("DELETE"))
        elif isinstance(self.statement, exp.Merge):
            merge.merge(self, self.statement, first, touched)

    # What is judged

    def _using(self, command: str) -> list[Rules]:
        """What hides rows from UPDATE or DELETE; SELECT's policies too if they are looked at."""
        commands = [command, "SELECT"] if self.ref.is_read else [command]
        return [
            rules(self.compiler.catalog, self.relation, self.place.role, name)
            for name in commands
        ]  # fmt: skip

    def _checks(self, command: str) -> list[Rules]:
        """What refuses new rows; they must be visible too if they are looked at."""
        catalog, role = self.compiler.catalog, self.place.role
        found = [rules(catalog, self.relation, role, command, CHECK)]
        if self.ref.is_read:
            found.append(rules(catalog, self.relation, role, "SELECT", CHECK, force_using=True))
        return found

    # Edits

    def _hide(self, first: int, found: Sequence[Rules]) -> None:
        text = self.text
        condition = self.compiler.condition(found, self.place, self.ref.alias)
        clauses = text.clauses(first, "where", "returning")
        where = clauses.get("where")
        if where is None:
            before = clauses["returning"] - 1 if "returning" in clauses else clauses["end"]
            text.insert(text.tokens[before].end + 1, f" where {condition}")
            return
        last = clauses["returning"] - 1 if "returning" in clauses else clauses["end"]
        if text.keyword(where + 1) == "current":
            self.compiler.unsupported("WHERE CURRENT OF a cursor")
        start, end = text.tokens[where + 1].start, text.tokens[last].end + 1
        if self.place.fenced:
            text.insert(start, f"case when {condition} then (")
            text.insert(end, ") else false end")
        else:
            text.insert(start, f"{condition} and (")
            text.insert(end, ")")

    def _refuse(self, first: int, found: Sequence[Rules]) -> None:
        text = self.text
        condition = self.compiler.condition(found, self.place, self.ref.alias)
        if condition in ("true", "(true)"):
            return
        check = f"case when {condition} then true else {self.failure()} end"
        clauses = text.clauses(first, "returning")
        returning = clauses.get("returning")
        if returning is None:
            text.insert(text.tokens[clauses["end"]].end + 1, f" returning {check} as allowed")
        else:
            self._check_in_returning(returning, check)

    def failure(self, row: str | None = None) -> str:
        """A boolean expression that fails, saying which row of which table is refused."""
        relation = self.relation
        name = quoted(row or self.ref.alias)
        shown = quoted((relation.key or relation.column_names)[0])
        message = literal(
            f"new row violates row-level security policy for table {relation.qualified}: "
        )
        return f"concat({message}, {name}.{shown})::boolean"

    def _check_in_returning(self, returning: int, check: str) -> None:
        """Have the first item of RETURNING fail where the check does."""
        text, item = self.text, []
        for number in text.level(returning + 1):
            if text.tokens[number].token_type == TokenType.COMMA:
                break
            item.append(number)
        words = [text.keyword(number) for number in item]
        start, end = text.tokens[item[0]].start, text.tokens[item[-1]].end + 1
        if words[-1] != "*":
            if words[0] == "with":
                self.compiler.unsupported("RETURNING WITH")
            text.insert(start, "(select ")
            text.insert(end, f" where {check})")
            return
        if len(words) == 3 and word(text.tokens[item[0]]) != self.ref.alias:
            self.compiler.unsupported("RETURNING that starts with another table's columns")
            return
        columns = self._starred(check)
        if len(words) == 1:
            columns += [f"{quoted(name)}.*" for name in self._others()]
        text.replace(start, end, ", ".join(columns))

    def _starred(self, check: str) -> list[str]:
        alias = quoted(self.ref.alias)
        names = [quoted(name) for name in self.relation.column_names]
        first = f"(select {alias}.{names[0]} where {check}) as {names[0]}"
        return [first, *(f"{alias}.{name}" for name in names[1:])]

    def _others(self) -> list[str]:
        """What else is in FROM or USING, by alias."""
        statement = self.statement
        assert statement is not None
        clause = statement.args.get("from_")
        items = [clause.this] if clause is not None else list(statement.args.get("using") or [])
        found = []
        for item in items:
            for source in [item, *(join.this for join in item.args.get("joins") or [])]:
                if not source.alias_or_name or isinstance(source.this, exp.Table):
                    self.compiler.unsupported("RETURNING * beside a join that is not understood")
                if source is not item and source.parent.args.get("using"):
                    self.compiler.unsupported("RETURNING * beside JOIN … USING")
                node = source.args.get("alias")
                named = node.this if isinstance(node, exp.TableAlias) else source.this
                found.append(word_of(named))
        return found

    # Kinds of writes

    def _update(self, first: int, touched: bool) -> None:
        self.set_defaults(first)
        if touched:
            self._hide(first, self._using("UPDATE"))
            self._refuse(first, self._checks("UPDATE"))

    def _insert(self, node: exp.Insert, first: int, touched: bool) -> None:
        self._check_sequences(node)
        if node.args.get("conflict") is not None and touched:
            proposed.conflict(self, node, first)
            return
        self._defaults(node, first)
        update = proposed.update_of_conflict(self.text, first)
        if update is not None:
            self.set_defaults(update)
        if touched:
            self._refuse(first, self._checks("INSERT"))

    # Defaults

    def default_of(self, column: str) -> str | None:
        """What a column's default is for the session; None if it has none."""
        known = self.relation.column(column)
        if known is None or known.default is None or known.generated:
            return None
        text = Text(known.default)
        for problem in put_in(text, self.compiler.session):
            self.compiler.unsupported(f"the default of {column}: {problem}")
        check_calls(self.compiler, text, self.place)
        return text.edited()

    def personal_defaults(self) -> dict[str, str]:
        """The columns whose defaults the preview's runner would get otherwise."""
        found = {column.name: self.default_of(column.name) for column in self.relation.columns}
        return {
            column.name: text
            for column in self.relation.columns
            if (text := found[column.name]) is not None and text != column.default
        }

    def set_defaults(self, first: int, end: int | None = None) -> None:
        """Write out DEFAULT where SET gives it to a column whose default depends on the session."""
        personal, text = self.personal_defaults(), self.text
        clauses = text.clauses(first, "set")
        for number in range(clauses["set"], end or clauses["end"] + 1):
            if text.keyword(number) != "default" or not personal:
                continue
            name = word(text.tokens[number - 2])
            if text.keyword(number - 1) != "=" or name not in self.relation.column_names:
                self.compiler.unsupported("DEFAULT in a list of values that are set")
            elif name in personal:
                self.replace_token(number, personal[name])

    def replace_token(self, number: int, new: str) -> None:
        """Put something else in the place of one token."""
        token = self.text.tokens[number]
        self.text.replace(token.start, token.end + 1, new)

    def _defaults(self, node: exp.Insert, first: int) -> None:
        """Write out the defaults that depend on the session."""
        personal, text = self.personal_defaults(), self.text
        if not personal:
            return
        clauses = text.clauses(first, "values", "select", "default", "on", "returning")
        if node.args.get("default"):
            names = ", ".join(map(quoted, personal))
            start = text.tokens[clauses["default"]].start
            end = text.tokens[clauses["values"]].end + 1
            text.replace(start, end, f"({names}) values ({', '.join(personal.values())})")
            return
        given = self.given_columns(node)
        missing = {name: value for name, value in personal.items() if name not in given}
        if isinstance(node.expression, exp.Values) and "values" in clauses:
            self._defaults_in_rows(clauses["values"], given, personal, missing)
        elif not missing:
            return
        elif isinstance(node.expression, exp.Select) and "select" in clauses:
            inner = text.clauses(
                clauses["select"] + 1, "from", "where", "group", "having", "window", "order",
                "limit", "offset", "fetch", "for", "returning", "on", "union", "intersect",
                "except",
            )  # fmt: skip
            last = min([inner["end"] + 1, *(inner[name] for name in inner if name != "end")]) - 1
            at = text.tokens[last].end + 1
            text.insert(at, "".join(f", {value}" for value in missing.values()))
        else:
            self.compiler.unsupported(
                f"a default that depends on the session ({', '.join(missing)}) in this INSERT"
            )
            return
        if missing:
            self._name_columns(node, first, given, missing)

    def given_columns(self, node: exp.Insert) -> list[str]:
        """The columns an INSERT gives values for, in order."""
        if isinstance(node.this, exp.Schema):
            return [word_of(item) for item in node.this.expressions]
        names = list(self.relation.column_names)
        if isinstance(node.expression, exp.Values):
            rows = node.expression.expressions
            return names[: len(rows[0].expressions)] if rows else names
        width = len(node.expression.expressions) if node.expression is not None else 0
        stars = node.expression is not None and node.expression.is_star
        return names if stars else names[:width]

    def _name_columns(
        self, node: exp.Insert, first: int, given: list[str], missing: dict[str, str]
    ) -> None:
        text = self.text
        added = "".join(f", {quoted(name)}" for name in missing)
        if isinstance(node.this, exp.Schema):
            depth = next(
                number
                for number in range(first, len(text.tokens))
                if text.tokens[number].token_type == TokenType.R_PAREN
            )
            text.insert(text.tokens[depth].start, added)
            return
        if isinstance(node.expression, exp.Select) and node.expression.is_star:
            self.compiler.unsupported("INSERT … SELECT * into a table with a personal default")
        last = first
        while text.keyword(last + 1) not in ("values", "select", "with"):
            last += 1  # an alias
        names = ", ".join(map(quoted, given))
        text.insert(text.tokens[last].end + 1, f" ({names}{added})")

    def _defaults_in_rows(
        self, values: int, given: list[str], personal: dict[str, str], missing: dict[str, str]
    ) -> None:
        """In every row of VALUES write out DEFAULT, and add what is missing."""
        text, added = self.text, "".join(f", {value}" for value in missing.values())
        for number in text.level(values + 1):
            kind = text.tokens[number].token_type
            if kind == TokenType.L_PAREN:
                position = 0
                for inner in text.level(number + 1):
                    token = text.tokens[inner]
                    if token.token_type == TokenType.COMMA:
                        position += 1
                    elif text.keyword(inner) == "default" and given[position] in personal:
                        self.replace_token(inner, personal[given[position]])
                text.insert(text.tokens[self._closing(number)].start, added)
            elif kind not in (TokenType.COMMA, TokenType.R_PAREN):
                break

    def _closing(self, opening: int) -> int:
        """The bracket that closes an opening one."""
        depth = 0
        for number in range(opening, len(self.text.tokens)):
            kind = self.text.tokens[number].token_type
            depth += (kind == TokenType.L_PAREN) - (kind == TokenType.R_PAREN)
            if depth == 0:
                return number
        return len(self.text.tokens) - 1

    # What stands beside row-level security

    def _check_sequences(self, node: exp.Insert) -> None:
        """A default that draws from a sequence needs rights on it; an identity column does not."""
        catalog, role = self.compiler.catalog, self.place.role
        given = [] if node.args.get("default") else self.given_columns(node)
        for column in self.relation.columns:
            if column.name in given or "nextval(" not in (column.default or ""):
                continue
            for sequence in catalog.relations:
                if sequence.kind == "sequence" and f"'{sequence.qualified}'" in str(column.default):
                    allowed = any(
                        rights.has_grant(catalog, role, sequence.grants, privilege)
                        for privilege in ("USAGE", "UPDATE")
                    )
                    if not allowed:
                        self.compiler.refuse(f"permission denied for sequence {sequence.qualified}")

    def _check_triggers(self) -> None:
        for relation in with_children(self.compiler.catalog, self.relation):
            for trigger in triggers_of(relation, self.ref):
                schema, _, name = trigger.function.partition(".")
                if schema == "flux":
                    continue  # records who wrote; changes nothing of the row
                functions = self.compiler.catalog.functions_named(schema, name, self.place.role)
                reason = next(
                    (why for f in functions if (why := doubt(self.compiler.catalog, f))), None
                )
                if reason is not None:
                    self.compiler.unsupported(
                        f"trigger {trigger.name} on {relation.qualified} calls"
                        f" {trigger.function}(), {reason}"
                    )

    def _check_constraints(self) -> None:
        """A CHECK is evaluated as whoever writes."""
        for relation in with_children(self.compiler.catalog, self.relation):
            for check in relation.checks:
                text = Text(check)
                problems = put_in(text, self.compiler.session)
                check_calls(self.compiler, text, self.place)
                if problems or text.is_edited:
                    self.compiler.unsupported(
                        f"{check} on {relation.qualified}, which depends on the session"
                    )

    def _check_view(self) -> None:
        view = self.relation
        found = self.compiler.view_text(view, self.place)
        safe = found is not None and not found.is_edited and not view.security_invoker
        if not safe or any(trigger.timing == "INSTEAD OF" for trigger in view.triggers):
            self.compiler.unsupported(f"a write through the view {view.qualified}")


def word_of(node: object) -> str:
    """A name in a list of columns or of tables."""
    while isinstance(node, (exp.Column, exp.Table, exp.ColumnDef)):
        node = node.this
    return name_of(node)
