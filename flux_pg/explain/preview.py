"""The preview: a statement with the policies that hold for a role compiled into its text.

Run by somebody whom row-level security does not touch, it returns the rows that the statement
returns to the role. Laws:

- What cannot be compiled exactly is named in `unsupported`, and then there is no preview. What
  Postgres would refuse is named in `refused`.
- Rights are those of whom Postgres asks: of the role for tables in the statement and behind views
  with security_invoker, of a plain view's owner for what is behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError

from flux_pg.explain import rights
from flux_pg.explain.catalog import Catalog, Relation
from flux_pg.explain.functions import check_calls
from flux_pg.explain.harmless import is_harmless
from flux_pg.explain.names import Names
from flux_pg.explain.policies import Applied, Rules, exemption, rules
from flux_pg.explain.session import Session, put_in
from flux_pg.explain.sources import Source, TableRef
from flux_pg.explain.text import Text, name_of, quoted

_PREFIX = "select "  # makes a statement of an expression


@dataclass
class Preview:
    """What came of compiling one statement; `sql` is None unless both lists are empty."""

    sql: str | None = None
    tree: exp.Expr | None = None
    names: Names | None = None
    applied: list[Applied] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    exempt: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where in the nesting of views and policies a text stands.

    Attributes:
        role: Whose rights count.
        within: The views and policies around it, outermost first.
        fenced: Whether conditions around it could meet rows that a policy hides.
    """

    role: str
    within: tuple[str, ...] = ()
    fenced: bool = False


@lru_cache(maxsize=1024)
def parse(sql: str) -> exp.Expr:
    """Parse one statement; the tree is shared, and never changed.

    Raises:
        SqlglotError: The parser does not understand it.
    """
    try:
        tree = sqlglot.parse_one(sql, dialect="postgres")
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        # What the parser stumbles over it does not understand.
        raise SqlglotError(str(error)) from error
    if tree is None:
        raise SqlglotError("nothing to parse")
    return tree


def compile_statement(catalog: Catalog, session: Session, sql: str) -> Preview:
    """Compile the policies that hold for the session's role into one statement."""
    from flux_pg.explain.write import compile_writes

    found = Preview()
    compiler = Compiler(catalog, session, found)
    try:
        found.tree = parse(sql)
    except (SqlglotError, RecursionError) as error:
        found.unsupported.append(f"the statement is not understood: {_complaint(error)}")
        return found
    text = Text(sql)
    try:
        found.names = compiler.edit(text, found.tree, Place(session.role))
        compile_writes(compiler, text, found.tree, found.names)
    except (AttributeError, TypeError, LookupError, AssertionError) as error:
        # The parser's trees come in more shapes than anybody has listed: refusing one is right.
        found.unsupported.append(f"the statement has a shape that is not understood ({error})")
    if not found.unsupported and not found.refused:
        found.sql = text.edited()
    return found


class Compiler:
    """Compiles texts, and collects in `found` what holds and what is in the way."""

    def __init__(self, catalog: Catalog, session: Session, found: Preview) -> None:
        self.catalog = catalog
        self.session = session
        self.found = found

    def edit(
        self, text: Text, tree: exp.Expr, place: Place, around: Sequence[Source] = ()
    ) -> Names:
        """Note the edits on one text: its tables, and what it learns from the session."""
        names = Names(tree, self.catalog, self.session.role, around)
        for problem in names.problems:
            self.unsupported(problem)
        for problem in put_in(text, self.session):
            self.unsupported(problem)
        check_calls(self, text, place)
        for schema, name in names.system_tables:
            if f"{schema}.{name}" in self.catalog.personal_views:
                self.unsupported(f"{schema}.{name}, whose rows depend on who looks")
        fenced = place.fenced or not is_harmless(tree)
        inner = Place(place.role, place.within, fenced)
        for ref in names.refs:
            for problem in rights.missing(self.catalog, place.role, ref, by_name=not place.within):
                self.refuse(problem)
            if ref.command == "SELECT":
                self._replace(text, ref, inner, names)
        return names

    def unsupported(self, what: str) -> None:
        """Note that something cannot be compiled exactly."""
        if what not in self.found.unsupported:
            self.found.unsupported.append(what)

    def refuse(self, what: str) -> None:
        """Note that Postgres would refuse the statement."""
        if what not in self.found.refused:
            self.found.refused.append(what)

    # Tables that are read

    def _replace(self, text: Text, ref: TableRef, place: Place, names: Names) -> None:
        become = self._view if ref.relation.kind == "view" else self._table
        inside = become(ref, place)
        if inside is None:
            return
        self._check_place(text, ref)
        stretch = self._stretch(text, ref.node)
        if stretch is None:
            self.unsupported(f"where {ref.relation.qualified} stands in the text")
            return
        start, end = stretch
        alias = "" if ref.node.args.get("alias") else f" as {quoted(ref.alias)}"
        before = text.token_at(start) - 1
        if text.keyword(before) == "table":
            start, alias = text.tokens[before].start, ""  # `table docs`, a query of its own
        text.replace(start, end, f"({inside}){alias}")
        self._drop_schemas(text, ref, names)
        self._keep_grouping(text, ref, names)
        self._check_rows(ref, names)

    def _table(self, ref: TableRef, place: Place) -> str | None:
        """The query that a table becomes; None if it may stay."""
        if not self.is_touched(ref.relation, place.role):
            return None
        relation = ref.relation
        condition = self.condition(self._hiding(ref, place.role), place, None)
        only = "only " if ref.node.args.get("only") else ""
        name = f"{quoted(relation.schema)}.{quoted(relation.name)}"
        fence = " offset 0" if place.fenced else ""
        return f"select * from {only}{name} where {condition}{fence}"

    def _hiding(self, ref: TableRef, role: str) -> list[Rules]:
        """What hides rows of a table that is read; one that is locked must be open to UPDATE."""
        commands = ["SELECT", "UPDATE"] if ref.locked else ["SELECT"]
        return [rules(self.catalog, ref.relation, role, command) for command in commands]

    def is_touched(self, relation: Relation, role: str) -> bool:
        """Whether row-level security touches `role` on a relation."""
        if relation.kind not in ("table", "partitioned table"):
            return False
        reason = exemption(self.catalog, relation, role)
        if reason is not None and reason not in self.found.exempt:
            self.found.exempt.append(reason)
        return reason is None

    def condition(self, found: Sequence[Rules], place: Place, alias: str | None) -> str:
        """The condition that rules amount to.

        Args:
            found: The rules, all of which must hold.
            place: Where they are to stand.
            alias: What the table is called there; None for its own name, with nothing beside it.
        """
        if self._is_recursive(found, place):
            return "false"
        parts: list[str] = []
        for each in found:
            permissive = [self._expression(applied, place, alias) for applied in each.permissive]
            text = " or ".join(permissive)
            parts.append(f"({text})" if len(permissive) > 1 else text)
            parts += [self._expression(applied, place, alias) for applied in each.restrictive]
        return " and ".join(dict.fromkeys(parts))

    def _is_recursive(self, found: Sequence[Rules], place: Place) -> bool:
        """Whether Postgres refuses to look at a table inside of its own policies, and notes it.

        It does so only where one of the policies that hold there has a subquery itself.
        """
        every = [applied for each in found for applied in each.all]
        name = every[0].relation.qualified
        if f"policy on {name}" not in place.within:
            return False
        if not any(_has_subquery(applied.expression) for applied in every):
            return False
        self.found.applied += [each for each in every if each not in self.found.applied]
        self.refuse(f"infinite recursion detected in policy for relation {name}")
        return True

    def _expression(self, applied: Applied, place: Place, alias: str | None) -> str:
        relation = applied.relation
        if applied not in self.found.applied:
            self.found.applied.append(applied)
        mark = f"policy on {relation.qualified}"
        text = Text(_PREFIX + applied.expression)
        try:
            tree = parse(text.sql)
        except (SqlglotError, RecursionError):
            name = applied.policy.name if applied.policy else ""
            self.unsupported(f"policy {name} on {relation.qualified} is not understood")
            return "false"
        own = Source(relation.name, relation.column_names)
        names = self.edit(text, tree, Place(place.role, (*place.within, mark)), [own])
        if alias is not None and (names.own_row or alias in names.aliases - {relation.name}):
            # Its own row as a whole, or a name inside that would hide the alias.
            row = f"select {quoted(alias)}.*"
            return f"({text.edited()} from ({row}) as {quoted(relation.name)})"
        if alias is not None:
            self._rename(text, names, relation, alias)
        result = text.edited()[len(_PREFIX) :]
        return result if result.startswith("(") or result in ("true", "false") else f"({result})"

    def _rename(self, text: Text, names: Names, relation: Relation, alias: str) -> None:
        """Have the columns of a policy's own table called by its alias in the statement."""
        for column in names.own:
            qualifier = column.args.get("table")
            where = text.span(qualifier if qualifier is not None else column.this)
            if where is None:
                self.unsupported(f"a policy on {relation.qualified} that cannot be renamed")
            elif qualifier is not None:
                text.replace(*where, quoted(alias))
            else:
                text.insert(where[0], f"{quoted(alias)}.")

    # Views

    def _view(self, ref: TableRef, place: Place) -> str | None:
        """The query that a view becomes; None if it may stay."""
        text = self.view_text(ref.relation, place)
        if text is None or not text.is_edited:
            return None
        if ref.locked:
            self.unsupported(f"FOR UPDATE or FOR SHARE on the view {ref.relation.qualified}")
        if place.fenced:
            return f"select * from ({text.edited()}) as {quoted(ref.relation.name)} offset 0"
        return text.edited()

    def view_text(self, view: Relation, place: Place) -> Text | None:
        """A view's query with what holds inside it; None if it is not understood."""
        mark = f"view {view.qualified}"
        if view.definition is None or mark in place.within:
            self.unsupported(f"view {view.qualified}, whose query is not known")
            return None
        # Behind any number of plain views, security_invoker means who runs the whole statement.
        role = self.session.role if view.security_invoker else view.owner
        text = Text(view.definition)
        try:
            tree = parse(view.definition)
        except (SqlglotError, RecursionError):
            self.unsupported(f"view {view.qualified} is not understood")
            return None
        self.edit(text, tree, Place(role, (*place.within, mark), place.fenced))
        return text

    # The text around a table

    def _check_place(self, text: Text, ref: TableRef) -> None:
        name = ref.relation.qualified
        if ref.system:
            self.unsupported(f"system column {', '.join(sorted(ref.system))} of {name}")
        if ref.node.args.get("sample") or ref.node.find_ancestor(exp.TableSample):
            self.unsupported(f"TABLESAMPLE on {name}")

    def _stretch(self, text: Text, node: exp.Table) -> tuple[int, int] | None:
        """Where a table's name stands, with its schema and ONLY."""
        schema = node.args.get("db")
        last = text.span(node.this)
        first = text.span(schema) if schema is not None else last
        if last is None or first is None or node.args.get("catalog") is not None:
            return None
        before = text.token_at(first[0]) - 1
        after = text.token_at(last[0]) + 1
        if text.keyword(after) == "*":
            return None
        if node.args.get("only"):
            return (text.tokens[before].start, last[1]) if text.keyword(before) == "only" else None
        return first[0], last[1]

    def _check_rows(self, ref: TableRef, names: Names) -> None:
        """A subquery's row as a whole is an unnamed record, no row of the table's own type."""
        for column, owner in names.rows:
            if owner is ref and self._needs_type(column, ref.relation):
                self.unsupported(
                    f"the whole row of {ref.relation.qualified} as a value of its type"
                )

    def _needs_type(self, column: exp.Column, relation: Relation) -> bool:
        around = column.parent
        while isinstance(around, (exp.Paren, exp.Tuple)):
            around = around.parent
        if isinstance(around, (exp.Binary, exp.In)):
            return any(literal.is_string for literal in around.find_all(exp.Literal))
        called = (
            self.catalog.functions_called(around.name) if isinstance(around, exp.Anonymous) else []
        )
        outer = any(join.side for join in column.root().find_all(exp.Join))
        takes = any(relation.qualified in function.arguments for function in called)
        return bool(called) and (outer or not takes)

    def _drop_schemas(self, text: Text, ref: TableRef, names: Names) -> None:
        """A subquery has no schema: `public.docs.id` becomes `docs.id`."""
        for column, owner in names.with_schema:
            first = text.span(column.args["db"])
            second = text.span(column.args["table"])
            if owner is ref and first is not None and second is not None:
                text.replace(first[0], second[0], "")
            elif owner is ref:
                self.unsupported(f"a column written with the schema of {ref.relation.qualified}")

    def _keep_grouping(self, text: Text, ref: TableRef, names: Names) -> None:
        """Group by every column that is used, where the table's key stood for all of them."""
        select, key = ref.select, set(ref.relation.key)
        group = select.args.get("group") if select is not None else None
        if select is None or group is None or not key:
            return
        if ref.node.args["alias"].columns if ref.node.args.get("alias") else False:
            self.unsupported(f"GROUP BY with renamed columns of {ref.relation.qualified}")
            return
        mine = [c for c in select.find_all(exp.Column) if names.bound.get(id(c)) is ref]
        grouped = {name_of(c.this) for c in mine if c.find_ancestor(exp.Group) is group}
        used = {name_of(c.this) for c in mine if _is_after_grouping(c, select)}
        missing = sorted(used - grouped)
        if not key <= grouped or not missing:
            return
        last = [text.span(c.this) for c in group.find_all(exp.Column)][-1:]
        plain = all(isinstance(item, exp.Column) for item in group.expressions)
        if not plain or len(group.args) > 1 or not last or last[0] is None:
            self.unsupported(f"GROUP BY that relies on the key of {ref.relation.qualified}")
            return
        added = "".join(f", {quoted(ref.alias)}.{quoted(name)}" for name in missing)
        text.insert(last[0][1], added)


def _has_subquery(expression: str) -> bool:
    try:
        tree = parse(_PREFIX + expression)
    except (SqlglotError, RecursionError):
        return True
    return any(inner is not tree for inner in tree.find_all(exp.Query))


def _is_after_grouping(column: exp.Column, select: exp.Expr) -> bool:
    node: exp.Expr | None = column
    while node is not None and node.parent is not select:
        node = node.parent
    return node is not None and node.arg_key in ("expressions", "having", "order", "distinct")


def _complaint(error: Exception) -> str:
    """Where the parser stops."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not isinstance(error, ParseError) or not error.errors:
        return "its words cannot be told apart"
    place = error.errors[0]
    line, column, near = place.get("line"), place.get("col"), str(place.get("highlight") or "")
    return f"the parser stops at line {line}, column {column}" + (f', at "{near}"' if near else "")
