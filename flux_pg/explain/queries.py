"""Which table and column each name in a query means: FROM, expressions, CTEs.

Resolved by Postgres's rules over the catalog: CTEs before tables, inner queries before outer ones,
columns before whole rows. A column of a source whose columns are not known (a function, one of
Postgres's own tables) counts as that source's only if no known source has it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from sqlglot import exp

from flux_pg.explain.catalog import Catalog, Relation
from flux_pg.explain.sources import (
    UNSURE,
    Scope,
    Source,
    TableRef,
    column_of,
    output_name,
    rename,
    star_of,
)
from flux_pg.explain.text import name_of

SYSTEM_COLUMNS = frozenset({"ctid", "tableoid", "xmin", "xmax", "cmin", "cmax"})
# Not columns, whatever the parser makes of them.
_KEYWORDS = frozenset(
    """
    user current_user current_role session_user system_user current_catalog current_schema default
    """.split()
)


class Queries(ABC):
    """Resolves queries; statements that hold them are resolved by whoever inherits.

    Attributes:
        refs: The places where relations of the catalog are read or written.
        system_tables: Postgres's own relations that are read, as schema and name.
        problems: What could not be resolved.
        own: The columns of the sources around the statement.
        own_row: Whether a source around the statement is read as a whole row.
        bound: Columns of the tree, by identity, to the place that has them.
        aliases: Every name that something in a FROM has.
        with_schema: Columns that are written with the schema of their table.
        rows: Where a table's row is read as a whole.
    """

    def __init__(self, catalog: Catalog, role: str, around: Sequence[Source]) -> None:
        self._catalog = catalog
        self._role = role
        self.refs: list[TableRef] = []
        self.system_tables: list[tuple[str, str]] = []
        self.problems: list[str] = []
        self.own: list[exp.Column] = []
        self.own_row = False
        self.bound: dict[int, TableRef] = {}
        self.aliases: set[str] = set()
        self.with_schema: list[tuple[exp.Column, TableRef]] = []
        self.rows: list[tuple[exp.Column, TableRef]] = []
        self._around = Scope(sources=list(around))
        self._seen: set[int] = set()

    @abstractmethod
    def _statement(self, node: exp.Expr, parent: Scope) -> tuple[str, ...] | None:
        """Resolve a statement in sight of `parent`; the columns it gives, None if unknown."""

    def _problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)

    def _with(self, node: exp.Expr, parent: Scope) -> Scope:
        scope = Scope(parent)
        clause = node.args.get("with_")
        if clause is None:
            return scope
        for cte in clause.expressions:
            name = name_of(cte.args["alias"].this)
            names = tuple(name_of(column) for column in cte.args["alias"].columns)
            if clause.args.get("recursive"):
                scope.ctes[name] = names or self._first_names(cte.this)
            found = self._statement(cte.this, scope)
            scope.ctes[name] = rename(found, names)
            extra = [cte.args.get("search"), cte.args.get("cycle")]
            if any(item is not None for item in extra):
                scope.ctes[name] = None
        return scope

    @staticmethod
    def _first_names(node: exp.Expr) -> tuple[str, ...] | None:
        """The names a recursive CTE takes from its first part; None if they must be guessed."""
        while isinstance(node, (exp.SetOperation, exp.Subquery)):
            node = node.this
        items = node.expressions if isinstance(node, exp.Select) else []
        names = tuple(output_name(item) for item in items)
        return names if names and not {"*", UNSURE} & set(names) else None

    # Queries

    def _query(self, node: exp.Expr, parent: Scope) -> tuple[str, ...] | None:
        if isinstance(node, exp.Subquery):
            scope = self._with(node, parent)
            found = self._statement(node.this, scope)
            self._tail(node, scope, found)
            return found
        scope = self._with(node, parent)
        if isinstance(node, exp.SetOperation):
            found = self._statement(node.this, scope)
            self._statement(node.expression, scope)
            self._tail(node, scope, found)
            return found
        if isinstance(node, exp.Select):
            return self._select(node, scope)
        if isinstance(node, exp.Table):  # `table t`
            self._from(node, scope)
            return scope.sources[-1].columns
        for child in node.iter_expressions():
            self._visit(child, scope)
        return None

    def _tail(self, node: exp.Expr, scope: Scope, outputs: tuple[str, ...] | None) -> None:
        """ORDER BY, LIMIT and so on of a set operation or a query in brackets."""
        inner = Scope(scope, [Source("", outputs)])
        for key in ("order", "limit", "offset", "fetch"):
            if node.args.get(key) is not None:
                self._visit(node.args[key], inner)

    def _select(self, node: exp.Select, scope: Scope) -> tuple[str, ...] | None:
        if node.args.get("from_") is not None:
            self._from(node.args["from_"].this, scope, node)
        for join in node.args.get("joins") or []:
            self._join(join, scope, node)
        for lateral in node.args.get("laterals") or []:
            self._from(lateral, scope, node)
        if node.args.get("into") is not None:
            self._problem("SELECT … INTO, which makes a table")
            self._seen |= {id(table) for table in node.args["into"].find_all(exp.Table)}
        skipped = (
            "with_", "from_", "joins", "laterals", "locks", "order", "group", "distinct", "into",
        )  # fmt: skip
        for key, value in node.args.items():
            if key in skipped:
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, exp.Expr):
                    self._visit(child, scope)
        self.aliases |= {source.alias for source in scope.sources}
        outputs = self._outputs(node.expressions, scope)
        scope.outputs = frozenset(output_name(item) for item in node.expressions)
        for key in ("group", "order", "distinct"):
            if isinstance(node.args.get(key), exp.Expr):
                self._visit(node.args[key], scope)
        for lock in node.args.get("locks") or []:
            self._lock(lock, scope)
        return outputs

    def _lock(self, lock: exp.Lock, scope: Scope) -> None:
        named = {name_of(table.this) for table in lock.expressions if isinstance(table, exp.Table)}
        for source in scope.sources:
            if named and source.alias not in named:
                continue
            if source.ref is not None:
                source.ref.locked = True
            elif source.columns is not None:
                # It goes on into subqueries, whose tables are not told apart here.
                self._problem("FOR UPDATE or FOR SHARE on a subquery")

    def _outputs(self, items: Sequence[exp.Expr], scope: Scope) -> tuple[str, ...] | None:
        names: list[str] = []
        for item in items:
            star = star_of(item)
            if star is None:
                names.append(output_name(item))
                continue
            for source in scope.sources:
                if star and source.alias != star:
                    continue
                if source.columns is None:
                    return None
                names += [name for name in source.columns if name not in names or star]
        return tuple(names)

    def _from(self, node: exp.Expr, scope: Scope, select: exp.Expr | None = None) -> None:
        alias_node = node.args.get("alias")
        alias = name_of(alias_node.this) if isinstance(alias_node, exp.TableAlias) else ""
        renamed = (
            tuple(name_of(column_of(c)) for c in alias_node.columns)
            if isinstance(alias_node, exp.TableAlias)
            else ()
        )
        if isinstance(node, exp.Table):
            self._seen.add(id(node))
            self._from_table(node, alias, renamed, scope, select)
        elif isinstance(node, exp.Subquery):
            self._from_subquery(node, alias, renamed, scope, select)
        elif isinstance(node, exp.Lateral):
            if isinstance(node.this, exp.Subquery):
                found = self._query(node.this, Scope(scope))
                scope.sources.append(Source(alias, rename(found, renamed)))
            else:
                self._visit(node.this, scope)
                scope.sources.append(Source(alias, None))
        elif isinstance(node, exp.Values):
            self._visit_children(node, scope, skip=("alias",))
            scope.sources.append(Source(alias, renamed or None))
        else:
            self._visit_children(node, scope, skip=("alias", "joins", "laterals"))
            scope.sources.append(Source(alias, None))
        for join in node.args.get("joins") or []:
            self._join(join, scope, select)

    def _from_subquery(
        self,
        node: exp.Subquery,
        alias: str,
        renamed: tuple[str, ...],
        scope: Scope,
        select: exp.Expr | None,
    ) -> None:
        if isinstance(node.this, (exp.Table, exp.Join)) or (
            isinstance(node.this, exp.Subquery) and node.this.args.get("joins")
        ):
            # A join in brackets; with an alias it hides the names of its tables.
            inner = Scope(scope.parent) if alias else scope
            self._from(node.this, inner, select)
            if alias:
                columns = [s.columns for s in inner.sources]
                known = tuple(name for c in columns for name in c or ())
                scope.sources.append(Source(alias, None if None in columns else known))
            return
        found = self._query(node, Scope(scope.parent, ctes=scope.ctes))
        scope.sources.append(Source(alias, rename(found, renamed)))

    def _from_table(
        self,
        node: exp.Table,
        alias: str,
        renamed: tuple[str, ...],
        scope: Scope,
        select: exp.Expr | None,
    ) -> None:
        name = name_of(node.this)
        if not isinstance(node.this, exp.Identifier):
            self._visit_children(node, scope, skip=("alias", "joins", "laterals"))
            shown = alias or (node.this.name if isinstance(node.this, exp.Anonymous) else "")
            scope.sources.append(Source(shown.lower(), None))
            return
        is_cte, columns = scope.cte(name) if not node.args.get("db") else (False, None)
        if is_cte:
            scope.sources.append(Source(alias or name, rename(columns, renamed)))
            return
        relation = self._relation(node)
        if relation is None:
            scope.sources.append(Source(alias or name, None))
            return
        ref = TableRef(node, relation, alias or name, select=select)
        self.refs.append(ref)
        source = Source(alias or name, rename(relation.column_names, renamed), ref)
        scope.sources.append(source)

    def _relation(self, node: exp.Table) -> Relation | None:
        name, schema = name_of(node.this), name_of(node.args.get("db"))
        relation = self._catalog.find(schema, name, self._role)
        if relation is None:
            if self._catalog.is_system(schema, name):
                self.system_tables.append((schema or "pg_catalog", name))
            else:
                shown = f"{schema}.{name}" if schema else name
                self._problem(f"there is no relation {shown} in the catalog")
        return relation

    def _join(self, join: exp.Join, scope: Scope, select: exp.Expr | None = None) -> None:
        left = list(scope.sources)
        self._from(join.this, scope, select)
        right = scope.sources[len(left) :]
        if join.args.get("on") is not None:
            self._visit(join.args["on"], scope)
        using = [name_of(column_of(item)) for item in join.args.get("using") or []]
        for item in join.args.get("using") or []:
            self._seen |= {id(inner) for inner in item.find_all(exp.Column)}
        if str(join.args.get("method") or "").upper() == "NATURAL":
            both = [name for source in left for name in source.columns or ()]
            using = [name for source in right for name in source.columns or () if name in both]
        for source in [*left, *right]:
            for name in using:
                if name in (source.columns or ()):
                    self._mark(source, name)

    # Expressions

    def _visit(self, node: exp.Expr, scope: Scope) -> None:
        if isinstance(node, exp.Query) and not isinstance(node, exp.Table):
            self._query(node, Scope(scope))
        elif isinstance(node, exp.Column):
            self._seen.add(id(node))
            self._column(node, scope)
            for inner in node.args.get("join_mark") or ():
                self._visit(inner, scope)
        elif isinstance(node, exp.Star):
            self._star("", scope)
        elif isinstance(node, exp.Count) and isinstance(node.this, exp.Star):
            return
        elif isinstance(node, exp.Table):
            self._seen.add(id(node))
            self._from(node, Scope(scope))
        else:
            self._visit_children(node, scope)

    def _visit_children(self, node: exp.Expr, scope: Scope, skip: tuple[str, ...] = ()) -> None:
        for key, value in node.args.items():
            if key in skip:
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, exp.Expr):
                    self._visit(child, scope)

    def _star(self, alias: str, scope: Scope) -> None:
        for source in scope.sources:
            if (not alias or source.alias == alias) and source.ref is not None:
                source.ref.reads_row = True

    def _column(self, node: exp.Column, scope: Scope) -> None:
        qualifier = name_of(node.args.get("table"))
        name = name_of(node.this)
        if name in _KEYWORDS and not qualifier and not node.this.args.get("quoted"):
            return
        level: Scope | None = scope
        while level is not None:
            if qualifier:
                for source in level.sources:
                    if source.alias == qualifier:
                        self._read(node, source, name, level)
                        return
            elif self._unqualified(node, name, level):
                return
            level = level.parent
        if qualifier and any(True for _ in self._holders(scope, qualifier)):
            return  # a field of a composite column
        self._problem(f"{node.sql('postgres')}: no such column is known")

    def _holders(self, scope: Scope, name: str) -> Iterable[Source]:
        level: Scope | None = scope
        while level is not None:
            for source in level.sources:
                if source.columns is not None and name in source.columns:
                    self._mark(source, name)
                    yield source
            level = level.parent

    def _unqualified(self, node: exp.Column, name: str, level: Scope) -> bool:
        holders = [s for s in level.sources if s.columns is not None and name in s.columns]
        if holders:
            for source in holders:
                self._read(node, source, name, level)
            return True
        unknown = [s for s in level.sources if s.columns is None or UNSURE in s.columns]
        row = [source for source in level.sources if source.alias == name]
        if row:
            for source in row:
                self._whole(node, source, level)
            return True
        if name in level.outputs:
            return True
        if name in SYSTEM_COLUMNS:
            refs = [source.ref for source in level.sources if source.ref is not None]
            for ref in refs:
                ref.system.add(name)
            if refs:
                return True
        return bool(unknown)

    def _read(self, node: exp.Column, source: Source, name: str, level: Scope) -> None:
        if isinstance(node.this, exp.Star):
            self._whole(node, source, level)
            return
        if level is self._around:
            self.own.append(node)
        if source.ref is not None:
            self.bound[id(node)] = source.ref
            if node.args.get("db") is not None:
                self.with_schema.append((node, source.ref))
        if source.columns is None or name in source.columns:
            self._mark(source, name)
        elif source.ref is not None and name in SYSTEM_COLUMNS:
            source.ref.system.add(name)
        elif source.ref is not None and source.alias not in ("old", "new"):
            self._problem(f"{source.alias}.{name}: no such column is known")

    def _whole(self, node: exp.Column, source: Source, level: Scope) -> None:
        self.own_row = self.own_row or level is self._around
        if source.ref is not None:
            source.ref.reads_row = True
            self.rows.append((node, source.ref))

    @staticmethod
    def _mark(source: Source, name: str) -> None:
        if source.ref is not None:
            source.ref.reads.add(source.real_name(name))
