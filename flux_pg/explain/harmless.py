"""Whether the conditions of a statement can fail or tell something when a hidden row reaches them.

Postgres applies a policy before any condition that is not leakproof. In plain SQL the planner is
free in the order of conditions, so that a preview of `where 1 / balance > 0` could divide by the
zero of a row that the policy hides. A preview is fenced against that unless every condition is
harmless: comparisons of columns and constants, joined by and, or, not.
"""

from __future__ import annotations

from sqlglot import exp

_COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Between, exp.In, exp.Is)
_CONNECTIVES = (exp.And, exp.Or, exp.Not, exp.Paren, exp.Tuple)
_VALUES = (
    exp.Column, exp.Literal, exp.Null, exp.Boolean, exp.Parameter, exp.Identifier, exp.Interval,
    exp.Placeholder, exp.CurrentUser, exp.CurrentDate, exp.CurrentTimestamp, exp.Var,
)  # fmt: skip


def is_harmless(tree: exp.Expr) -> bool:
    """Whether no condition anywhere in a statement can fail on a row or call a function with it."""
    for clause in tree.find_all(exp.Where, exp.Having):
        if not is_fine(clause.this):
            return False
    for join in tree.find_all(exp.Join):
        if join.args.get("on") is not None and not is_fine(join.args["on"]):
            return False
    merges = tree.find_all(exp.Merge)
    return not any(True for _ in merges) and not any(True for _ in tree.find_all(exp.Filter))


def is_fine(node: exp.Expr | None) -> bool:
    """Whether one condition cannot fail."""
    if node is None:
        return True
    if isinstance(node, (exp.Exists, exp.Query)):
        return isinstance(node, exp.Exists) or not _computes(node)
    if isinstance(node, exp.Cast):
        return isinstance(node.this, exp.Literal)
    if isinstance(node, (*_COMPARISONS, *_CONNECTIVES)):
        children = [node.args.get(key) for key in ("this", "expression", "low", "high", "query")]
        children += node.expressions
        return all(is_fine(child) for child in children if isinstance(child, exp.Expr))
    return isinstance(node, _VALUES)


def _computes(query: exp.Expr) -> bool:
    """Whether what a subquery gives is computed, not just read."""
    items = query.expressions if isinstance(query, exp.Select) else []
    return not items or not all(isinstance(item, (exp.Column, exp.Literal)) for item in items)
