"""The preview of writes (placeholder)."""

from __future__ import annotations

from sqlglot import exp

from flux_pg.explain.names import Names
from flux_pg.explain.preview import Compiler
from flux_pg.explain.text import Text


def compile_writes(compiler: Compiler, text: Text, tree: exp.Expr, names: Names) -> None:
    """Note the edits on a statement's writes."""
    for ref in names.refs:
        if ref.command != "SELECT":
            compiler.unsupported(f"{ref.command}")
