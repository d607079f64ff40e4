"""`--fail-if`: what a person calls a failure, as an expression over one run. Pure.

Laws:
- An expression is read, never run as code: it is Python's grammar cut down to comparisons,
  arithmetic on numbers, names, fields and the functions listed here. A field is a key of a JSON
  object; no attribute of a Python object can be reached.
- What does not exist is null. Null equals null; an order or a sum with it is `Unknown`, which is
  neither true nor false, so a run without the span that was asked for is not called good.
- Every name and function is checked when the expression is read, before anything has run.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

NAMES = ("outcome", "status", "error", "response", "duration_ms", "row_changes")
MAX_LENGTH = 2000

_ORDERS: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], bool]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
}
_SUMS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_WORDS = {"null": None, "true": True, "false": False, "None": None, "True": True, "False": False}
_FUNCTIONS = ("span", "spans", "count", "sum", "min", "max", "lower")


class ConditionError(ValueError):
    """The expression cannot be read.

    Attributes:
        column: 1-based place of the fault.
    """

    def __init__(self, message: str, column: int) -> None:
        super().__init__(message)
        self.column = column


class Unknown(Exception):
    """The expression is neither true nor false of a run; the text says why."""


@dataclass(frozen=True)
class Condition:
    """An expression that was read. `text` is as it was written."""

    text: str
    _tree: ast.expr

    def holds(self, run: Mapping[str, Any]) -> bool:
        """Whether it is true of a run.

        Args:
            run: The values of `NAMES`, and under `spans` a list of objects with `kind`, `name`
                and `duration_ms`.

        Raises:
            Unknown: It cannot be told.
        """
        return bool(_Reading(run).value(self._tree))


def read_condition(text: str) -> Condition:
    """Read an expression.

    Raises:
        ConditionError: It is none, or uses what there is not.
    """
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"longer than {MAX_LENGTH} characters", MAX_LENGTH)
    if not text.strip():
        raise ConditionError("there is nothing in it", 1)
    led = len(text) - len(text.lstrip())
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ConditionError(error.msg, led + (error.offset or 1)) from None
    except (RecursionError, MemoryError, ValueError):
        raise ConditionError("it cannot be read", 1) from None
    try:
        _check(tree, led)
    except RecursionError:
        raise ConditionError("too many levels", 1) from None
    return Condition(text, tree)


def _check(node: ast.AST, led: int) -> None:
    """Refuse every node that is not known."""
    column = led + getattr(node, "col_offset", 0) + 1
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in _FUNCTIONS:
            raise ConditionError(f"no such function; there are {', '.join(_FUNCTIONS)}", column)
        if len(node.args) != 1 or node.keywords:
            raise ConditionError(f"{name}() takes one value", column)
        if name in ("span", "spans") and not _is_text(node.args[0]):
            raise ConditionError(f'{name}() takes a name in quotes, like {name}("http")', column)
        _check(node.args[0], led)
        return
    if isinstance(node, ast.Name):
        if node.id not in NAMES and node.id not in _WORDS:
            message = f"unknown name {node.id}; there are {', '.join((*NAMES, *_FUNCTIONS))}"
            raise ConditionError(message, column)
        return
    if isinstance(node, ast.Constant):
        if not isinstance(node.value, (str, int, float, bool, type(None))):
            raise ConditionError("only texts, numbers, true, false and null", column)
        return
    if not _is_known(node):
        raise ConditionError("this cannot be written here", column)
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.expr_context, ast.operator, ast.boolop, ast.cmpop)) and (
            not isinstance(child, ast.unaryop)
        ):
            _check(child, led)


def _is_known(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        known = (*_ORDERS, ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Is, ast.IsNot)
        return all(isinstance(one, known) for one in node.ops)
    if isinstance(node, ast.BinOp):
        return type(node.op) in _SUMS
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, (ast.Not, ast.USub))
    return isinstance(node, (ast.BoolOp, ast.Attribute, ast.Subscript, ast.List, ast.Tuple))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


class _Reading:
    """One expression over one run."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        self._run = run

    def value(self, node: ast.expr) -> Any:
        read: Callable[[Any], Any] = getattr(self, f"_{type(node).__name__.lower()}")
        return read(node)

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _name(self, node: ast.Name) -> Any:
        return _WORDS[node.id] if node.id in _WORDS else self._run.get(node.id)

    def _list(self, node: ast.List | ast.Tuple) -> Any:
        return [self.value(one) for one in node.elts]

    _tuple = _list

    def _attribute(self, node: ast.Attribute) -> Any:
        return _field(self.value(node.value), node.attr)

    def _subscript(self, node: ast.Subscript) -> Any:
        return _field(self.value(node.value), self.value(node.slice))

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        return not value if isinstance(node.op, ast.Not) else -_number(value, node.operand)

    def _boolop(self, node: ast.BoolOp) -> Any:
        stops = isinstance(node.op, ast.Or)
        value: Any = not stops
        unknown: Unknown | None = None
        for one in node.values:
            try:
                value = self.value(one)
            except Unknown as reason:
                unknown = unknown or reason
                continue
            if bool(value) == stops:
                return value
        if unknown is not None:
            raise unknown
        return value

    def _binop(self, node: ast.BinOp) -> Any:
        left = _number(self.value(node.left), node.left)
        right = _number(self.value(node.right), node.right)
        try:
            return _SUMS[type(node.op)](left, right)
        except (ArithmeticError, ValueError) as error:
            raise Unknown(f"{ast.unparse(node)}: {error}") from None

    def _compare(self, node: ast.Compare) -> Any:
        left = self.value(node.left)
        for how, following in zip(node.ops, node.comparators, strict=True):
            right = self.value(following)
            if not _compared(how, left, right, node):
                return False
            left = right
        return True

    def _call(self, node: ast.Call) -> Any:
        assert isinstance(node.func, ast.Name)
        given = self.value(node.args[0])
        name = node.func.id
        if name in ("span", "spans"):
            found = [one for one in self._run.get("spans", ()) if _is_called(one, given)]
            return found if name == "spans" else (found[0] if found else None)
        if name == "lower":
            return given.lower() if isinstance(given, str) else None
        if not isinstance(given, (list, dict)):
            raise Unknown(f"{ast.unparse(node.args[0])} is no list")
        if name == "count":
            return len(given)
        numbers = [_number(one, node.args[0]) for one in given]
        if name == "sum":
            return sum(numbers)
        if not numbers:
            raise Unknown(f"{ast.unparse(node.args[0])} is empty")
        return min(numbers) if name == "min" else max(numbers)


def _is_called(span: Mapping[str, Any], wanted: str) -> bool:
    return span.get("kind") == wanted or fnmatchcase(str(span.get("name")), wanted)


def _field(value: Any, key: Any) -> Any:
    """A field; of a list, by a name, the fields of its elements. Null where there is none."""
    if isinstance(value, dict):
        return value.get(key) if isinstance(key, str) else None
    if isinstance(value, list):
        if isinstance(key, str):
            return [_field(one, key) for one in value]
        if isinstance(key, int) and -len(value) <= key < len(value):
            return value[key]
    return None


def _number(value: Any, node: ast.expr) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        said = "null" if value is None else "no number"
        raise Unknown(f"{ast.unparse(node)} is {said}")
    return value


def _compared(how: ast.cmpop, left: Any, right: Any, node: ast.Compare) -> bool:
    if isinstance(how, (ast.Eq, ast.Is)):
        return bool(left == right)
    if isinstance(how, (ast.NotEq, ast.IsNot)):
        return bool(left != right)
    if isinstance(how, (ast.In, ast.NotIn)):
        inside = _is_in(left, right, node)
        return inside == isinstance(how, ast.In)
    sign, order = _ORDERS[type(how)]
    ordered = all(isinstance(one, (int, float)) for one in (left, right)) or all(
        isinstance(one, str) for one in (left, right)
    )
    if not ordered:
        missing = "null" if left is None or right is None else "not of one kind"
        raise Unknown(f"{ast.unparse(node)}: one side of {sign} is {missing}")
    return order(left, right)


def _is_in(left: Any, right: Any, node: ast.Compare) -> bool:
    if isinstance(right, str) and isinstance(left, str):
        return left in right
    if isinstance(right, dict):
        return isinstance(left, str) and left in right
    if isinstance(right, list):
        return left in right
    raise Unknown(f"{ast.unparse(node)}: there is nothing to look in")
