"""Which table and column each name in a statement means, and what is done with it.

Law: every table and column of the tree is either resolved or becomes a problem; none is passed
over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlglot import exp

from flux_pg.explain.catalog import Catalog
from flux_pg.explain.queries import Queries
from flux_pg.explain.sources import Scope, Source, TableRef, column_of
from flux_pg.explain.text import name_of

_WRITES = (exp.Insert, exp.Update, exp.Delete, exp.Merge)


class Names(Queries):
    """The names of one statement, resolved.

    Args:
        tree: The statement.
        catalog: What is there.
        role: Whose search_path counts.
        around: The sources in sight around it: for a policy, its own table.
    """

    def __init__(
        self, tree: exp.Expr, catalog: Catalog, role: str, around: Sequence[Source] = ()
    ) -> None:
        super().__init__(catalog, role, around)
        self._statement(tree, self._around)
        self._check_all_seen(tree)

    def _check_all_seen(self, tree: exp.Expr) -> None:
        for node in tree.find_all(exp.Table, exp.Column):
            if id(node) not in self._seen and node.find_ancestor(exp.Lock) is None:
                self._problem(f"{node.sql('postgres')}: a name in a place that is not understood")

    def _statement(self, node: exp.Expr, parent: Scope) -> tuple[str, ...] | None:
        if isinstance(node, exp.Query):
            return self._query(node, parent)
        if isinstance(node, _WRITES):
            scope = self._with(node, parent)
            if isinstance(node, exp.Insert):
                return self._insert(node, scope)
            if isinstance(node, exp.Update):
                return self._update(node, scope)
            if isinstance(node, exp.Delete):
                return self._delete(node, scope)
            return self._merge(node, scope)
        self._visit(node, parent)
        return None

    def _insert(self, node: exp.Insert, scope: Scope) -> tuple[str, ...] | None:
        target = node.this
        columns: list[exp.Expr] = []
        if isinstance(target, exp.Schema):
            target, columns = target.this, list(target.expressions)
        ref = self._target(target, "INSERT", scope)
        given = None
        if node.expression is not None:
            given = self._statement(node.expression, scope)
        if ref is None:
            return None
        named = {name_of(column_of(column)) for column in columns}
        ref.inserts = named or set(ref.relation.column_names[: self._width(node, given)])
        for column in columns:
            self._seen |= {id(inner) for inner in column.find_all(exp.Column)}
        source = Source(ref.alias, ref.relation.column_names, ref)
        conflict = node.args.get("conflict")
        if conflict is not None:
            self._conflict(conflict, ref, source, scope)
        return self._returning(node, Scope(scope, [source]), [source])

    @staticmethod
    def _width(node: exp.Insert, given: tuple[str, ...] | None) -> int | None:
        """How many columns an INSERT without a list of columns gives; None: all there are."""
        if node.args.get("default"):
            return 0
        if isinstance(node.expression, exp.Values) and node.expression.expressions:
            return len(node.expression.expressions[0].expressions)
        return None if given is None else len(given)

    def _conflict(self, node: exp.Expr, ref: TableRef, source: Source, scope: Scope) -> None:
        alone = Scope(scope, [source])
        if node.args.get("constraint") is not None:
            ref.reads |= set(ref.relation.key) or set(ref.relation.column_names[:1])
        for key in node.args.get("conflict_keys") or []:
            self._visit(key, alone)
        index_where = node.args.get("index_where")
        if index_where is not None:
            self._visit(index_where, alone)
        excluded = Source("excluded", ref.relation.column_names, ref)
        both = Scope(scope, [source, excluded])
        self._assignments(node.expressions, ref, both)
        where = node.args.get("where")
        if where is not None:
            self._visit(where, both)

    def _update(self, node: exp.Update, scope: Scope) -> tuple[str, ...] | None:
        ref = self._target(node.this, "UPDATE", scope)
        if ref is None:
            return None
        source = Source(ref.alias, ref.relation.column_names, ref)
        here = Scope(scope, [source])
        if node.args.get("from_") is not None:
            self._from(node.args["from_"].this, here)
        for join in [*(node.this.args.get("joins") or []), *(node.args.get("joins") or [])]:
            self._join(join, here)
        self._assignments(node.expressions, ref, here)
        if node.args.get("where") is not None:
            self._visit(node.args["where"], here)
        return self._returning(node, here, here.sources)

    def _delete(self, node: exp.Delete, scope: Scope) -> tuple[str, ...] | None:
        ref = self._target(node.this, "DELETE", scope)
        if ref is None:
            return None
        ref.deletes = True
        here = Scope(scope, [Source(ref.alias, ref.relation.column_names, ref)])
        for item in node.args.get("using") or []:
            self._from(item, here)
        if node.args.get("where") is not None:
            self._visit(node.args["where"], here)
        return self._returning(node, here, here.sources)

    def _merge(self, node: exp.Merge, scope: Scope) -> tuple[str, ...] | None:
        ref = self._target(node.this, "MERGE", scope)
        if ref is None:
            return None
        source = Source(ref.alias, ref.relation.column_names, ref)
        here = Scope(scope, [source])
        self._from(node.args["using"], here)
        self._visit(node.args["on"], here)
        for when in node.args["whens"].expressions:
            if when.args.get("condition") is not None:
                self._visit(when.args["condition"], here)
            then = when.args.get("then")
            if isinstance(then, exp.Update):
                self._assignments(then.expressions, ref, here)
            elif isinstance(then, exp.Insert):
                named = then.this
                columns = named.expressions if isinstance(named, exp.Tuple) else []
                names = {name_of(column_of(column)) for column in columns}
                if not names and isinstance(then.expression, exp.Tuple):
                    names = set(ref.relation.column_names[: len(then.expression.expressions)])
                ref.inserts = (ref.inserts or set()) | (names - {"default"})
                for column in columns:
                    self._seen |= {id(inner) for inner in column.find_all(exp.Column)}
                if then.expression is not None:
                    self._visit(then.expression, here)
            elif isinstance(then, exp.Var) and then.name.upper() == "DELETE":
                ref.deletes = True
        return self._returning(node, here, here.sources)

    def _target(self, node: exp.Expr, command: str, scope: Scope) -> TableRef | None:
        if not isinstance(node, exp.Table):
            self._problem("the target of the write is not understood")
            return None
        self._seen.add(id(node))
        relation = self._relation(node)
        if relation is None:
            return None
        alias = name_of(node.args["alias"].this) if node.args.get("alias") else relation.name
        ref = TableRef(node, relation, alias, command)
        self.refs.append(ref)
        return ref

    def _assignments(self, items: Iterable[exp.Expr], ref: TableRef, scope: Scope) -> None:
        for item in items:
            if not isinstance(item, exp.EQ):
                self._problem(f"the assignment {item.sql('postgres')} is not understood")
                continue
            for column in item.this.find_all(exp.Column):
                self._seen.add(id(column))
                name = name_of(column.this)
                if name not in ref.relation.column_names:
                    # `set col.field = …`
                    name = name_of(column.args.get("table"))
                if name not in ref.relation.column_names:
                    self._problem(f"{ref.relation.qualified} has no column {name}")
                ref.updates.add(name)
            if isinstance(item.this, exp.Bracket):
                for inner in item.this.expressions:
                    self._visit(inner, scope)
            self._visit(item.expression, scope)

    def _returning(
        self, node: exp.Expr, scope: Scope, sources: list[Source]
    ) -> tuple[str, ...] | None:
        clause = node.args.get("returning")
        if clause is None:
            return ()
        # Since Postgres 18 the old and the new row can be named.
        target = sources[0]
        extra = [Source(name, target.columns, target.ref) for name in ("old", "new")]
        inner = Scope(Scope(scope.parent, extra), sources)
        for item in clause.expressions:
            self._visit(item, inner)
        return self._outputs(clause.expressions, inner)
