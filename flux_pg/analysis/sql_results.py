"""Which rows a statement's result came from: the tables behind its columns, and their keys.

Followed: SELECT with joins, subqueries in FROM and CTEs; UPDATE and DELETE with RETURNING. Not
followed: set operations, INSERT (the row is the request's own), views and tables that are not
tracked, rows known only by their contents (no key).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp
from sqlglot.optimizer.scope import Scope, build_scope

from flux_pg.analysis.sql_sources import (
    Catalog,
    Place,
    Source,
    Sources,
    bare,
    conjuncts,
    name_of,
    operand_of,
    parse,
)


def find_sources(sql: str, columns: Sequence[str], catalog: Catalog) -> list[Source]:
    """Return the tracked tables whose columns a result shows or uses.

    Args:
        sql: The recorded statement.
        columns: The recorded names of the result's columns.
        catalog: The tracked tables.
    """
    tree = parse(sql)
    if isinstance(tree, (exp.Update, exp.Delete)):
        return _Returning(tree, catalog).read(columns)
    if not isinstance(tree, exp.Select):
        return []
    scope = build_scope(tree)
    return _Selection(scope, catalog).read(columns) if scope is not None else []


class _Returning(Sources):
    """UPDATE and DELETE with RETURNING: what they return of the columns they did not set."""

    def __init__(self, tree: exp.Update | exp.Delete, catalog: Catalog) -> None:
        super().__init__(catalog)
        self._tree = tree

    def read(self, columns: Sequence[str]) -> list[Source]:
        """The sources of a result with these columns."""
        tree, target = self._tree, self._tree.this
        returning = tree.args.get("returning")
        only_target = not (tree.args.get("from_") or tree.args.get("using"))
        if not isinstance(target, exp.Table) or returning is None or not only_target:
            return []
        number = self.number(target)
        if number is None:
            return []
        table = self.sources[number].table
        assignments = tree.expressions if isinstance(tree, exp.Update) else []
        # A column set to a list of columns names them all.
        written = {
            name_of(column.this)
            for item in assignments
            for column in (item.this.find_all(exp.Column) if item.this is not None else ())
        }
        for position, (item, name) in enumerate(
            zip(_expand(returning.expressions, table.columns), columns, strict=False)
        ):
            column = item if isinstance(item, str) else _plain_column(item)
            if column in table.columns and column not in written:
                self.show((number, column), position)
            elif column in table.key and name == column:
                self.know((number, column), position)
        for condition in conjuncts(tree.args.get("where")):
            if isinstance(condition, exp.EQ):
                left, right = bare(condition.left), bare(condition.right)
                for side, value in ((left, right), (right, left)):
                    column, operand = _plain_column(side), operand_of(value)
                    if column in table.columns and operand is not None and column not in written:
                        self.equal((number, column), operand)
        return self.finish()


class _Selection(Sources):
    """SELECT, with joins, subqueries in FROM and CTEs."""

    def __init__(self, scope: Scope, catalog: Catalog) -> None:
        super().__init__(catalog)
        self._scope = scope
        self._learned: set[int] = set()

    def read(self, columns: Sequence[str]) -> list[Source]:
        """The sources of a result with these columns."""
        self._learn(self._scope)
        items = self._items(self._scope, columns)
        for position, item in enumerate(items):
            if isinstance(item, tuple):
                self.show(item, position)
                continue
            if item is None or item.find(exp.Query) is not None:
                continue  # names inside a subquery are its own first
            for column in item.find_all(exp.Column):
                place = self._resolve(self._scope, column)
                if place is not None:
                    self.sources[place[0]].used.add(place[1])
        return self.finish()

    def _items(self, scope: Scope, columns: Sequence[str]) -> list[Place | exp.Expr | None]:
        """What stands at each position of the result; empty if that cannot be told."""
        found: list[Place | exp.Expr | None] = []
        for item in scope.expression.expressions:
            shown = item.this if isinstance(item, exp.Alias) else item
            if isinstance(shown, exp.Star) or (
                isinstance(shown, exp.Column) and isinstance(shown.this, exp.Star)
            ):
                alias = name_of(shown.args.get("table")) if isinstance(shown, exp.Column) else ""
                found += self._star(scope, alias, columns)
            elif isinstance(shown, exp.Column):
                found.append(self._resolve(scope, shown))
            else:
                found.append(item)
        return found if len(found) == len(columns) else []

    def _star(
        self, scope: Scope, alias: str, columns: Sequence[str]
    ) -> list[Place | exp.Expr | None]:
        names = [alias] if alias else list(scope.selected_sources)
        found: list[Place | exp.Expr | None] = []
        for name in names:
            source = scope.sources.get(name)
            if isinstance(source, exp.Table):
                number = self.number(source)
                if number is None:
                    return []
                table = self.sources[number].table
                # The table may have had fewer columns then, or others: alone, names tell.
                alone = len(names) == 1 and len(scope.expression.expressions) == 1
                found += [
                    (number, column) if column in table.columns else None
                    for column in (columns if alone else table.columns)
                ]
            elif isinstance(source, Scope):
                inner = source.expression
                if not isinstance(inner, exp.Select):
                    return []
                if any(item.is_star for item in inner.expressions):
                    self._learn(source)
                    found += self._items(source, columns)
                else:
                    found += [
                        self._of_scope(source, item.alias_or_name) for item in inner.expressions
                    ]
            else:
                return []
        return found

    def _resolve(self, scope: Scope, column: exp.Column) -> Place | None:
        alias, name = name_of(column.args.get("table")), name_of(column.this)
        if alias:
            candidates = [scope.sources.get(alias)]
        else:
            candidates = [scope.sources.get(known) for known in scope.selected_sources]
            if len(candidates) > 1:
                candidates = [c for c in candidates if self._has(c, name)]
        if len(candidates) != 1:
            return None
        source = candidates[0]
        if isinstance(source, exp.Table):
            number = self.number(source)
            if number is None or name not in self.sources[number].table.columns:
                return None
            return number, name
        return self._of_scope(source, name) if isinstance(source, Scope) else None

    def _has(self, source: exp.Table | Scope | None, name: str) -> bool:
        """Whether a source has a column of this name; one that is not known might."""
        if isinstance(source, exp.Table):
            number = self.number(source)
            return number is None or name in self.sources[number].table.columns
        if isinstance(source, Scope) and isinstance(source.expression, exp.Select):
            items = source.expression.expressions
            return any(item.is_star or item.alias_or_name == name for item in items)
        return True

    def _of_scope(self, scope: Scope, name: str) -> Place | None:
        """The column behind a name that a subquery or CTE gives."""
        select = scope.expression
        if not isinstance(select, exp.Select):
            return None
        self._learn(scope)
        for item in select.expressions:
            shown = item.this if isinstance(item, exp.Alias) else item
            if item.alias_or_name == name and isinstance(shown, exp.Column):
                return self._resolve(scope, shown)
        if any(item.is_star for item in select.expressions):
            return self._resolve(scope, exp.column(exp.to_identifier(name, quoted=True)))
        return None

    def _learn(self, scope: Scope) -> None:
        """Note which columns equal what, and which tables an outer join may leave empty."""
        if id(scope) in self._learned or not isinstance(scope.expression, exp.Select):
            return
        self._learned.add(id(scope))
        select = scope.expression
        for condition in conjuncts(select.args.get("where")):
            self._equate(scope, condition, None)
        for join in select.args.get("joins") or []:
            side = str(join.args.get("side") or "").upper()
            joined = self._joined(scope, join)
            if side in ("LEFT", "RIGHT", "FULL"):
                for number in self._numbers_in(scope) if side != "LEFT" else joined:
                    self.sources[number].nullable = True
            if side in ("RIGHT", "FULL"):
                continue
            for condition in conjuncts(join.args.get("on")):
                self._equate(scope, condition, joined if side == "LEFT" else None)

    def _joined(self, scope: Scope, join: exp.Join) -> set[int]:
        source = scope.sources.get(join.alias_or_name)
        number = self.number(source) if isinstance(source, exp.Table) else None
        return set() if number is None else {number}

    def _numbers_in(self, scope: Scope) -> set[int]:
        tables = (s for s in scope.sources.values() if isinstance(s, exp.Table))
        return {number for table in tables if (number := self.number(table)) is not None}

    def _equate(self, scope: Scope, condition: exp.Expr, only: set[int] | None) -> None:
        """Learn from an equality; of an outer join's it holds for the `only` joined sources."""
        if not isinstance(condition, exp.EQ):
            return
        left, right = bare(condition.left), bare(condition.right)
        for side, value in ((left, right), (right, left)):
            if not isinstance(side, exp.Column):
                continue
            place = self._resolve(scope, side)
            if place is None or (only is not None and place[0] not in only):
                continue
            other = (
                self._resolve(scope, value) if isinstance(value, exp.Column) else operand_of(value)
            )
            if other is not None:
                self.equal(place, other)


def _plain_column(node: exp.Expr | None) -> str:
    node = node.this if isinstance(node, exp.Alias) else node
    return name_of(node.this) if isinstance(node, exp.Column) else ""


def _expand(items: Sequence[exp.Expr], columns: Sequence[str]) -> list[str | exp.Expr]:
    """The items of a result, a star written out as the names of the columns."""
    found: list[str | exp.Expr] = []
    for item in items:
        is_star = isinstance(item, exp.Star) or (
            isinstance(item, exp.Column) and isinstance(item.this, exp.Star)
        )
        found += columns if is_star else [item]
    return found
