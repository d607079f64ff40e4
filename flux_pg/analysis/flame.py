"""The span tree as a flame graph: one SVG document that stands alone."""

from __future__ import annotations

from html import escape

from flux_pg.analysis.text import duration
from flux_pg.analysis.tree import Tree, duration_of, end_of, start_of, walk
from flux_pg.analysis.waterfall import error_text, label, place

_ROW = 22
_WIDTH = 1200
_COLOURS = {"gateway": "#7c9cbf", "function": "#e8a33d", "db": "#6aa84f", "http": "#b07cc6"}


def render(tree: Tree, title: str) -> str:
    """Return the SVG text. Widths are durations, depth is nesting, each span has a tooltip."""
    nodes = [(step.node, step.depth) for step in walk(tree.roots)]
    begin = min((start_of(node.span) for node, _ in nodes), default=0)
    total = max(max((end_of(node.span) for node, _ in nodes), default=0) - begin, 1)
    height = (max((depth for _, depth in nodes), default=0) + 1) * _ROW + 48
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="8" y="22" font-size="14">{_safe(title)}</text>',
    ]
    for node, depth in nodes:
        span = node.span
        x = (start_of(span) - begin) * _WIDTH / total
        width = max(duration_of(span) * _WIDTH / total, 1.0)
        y = 36 + depth * _ROW
        failed = span.get("status") not in ("ok", None)
        colour = "#d9534f" if failed else _COLOURS.get(str(span.get("kind")).split(".")[0], "#aaa")
        tip = f"{label(span)}: {duration(duration_of(span))} {place(span.get('location'))}".strip()
        if span.get("error"):
            tip += f" · {error_text(span['error'])}"
        text = label(span)[: int(width / 7)] if width > 28 else ""
        parts.append(
            f'<g><title>{_safe(tip)}</title><rect x="{x:.2f}" y="{y}" width="{width:.2f}" '
            f'height="{_ROW - 2}" rx="2" fill="{colour}"/>'
            f'<text x="{x + 4:.2f}" y="{y + 14}">{_safe(text)}</text></g>'
        )
    return "\n".join([*parts, "</svg>"])


def _safe(text: str) -> str:
    # XML forbids most control characters even as references.
    return escape("".join(c for c in text if c.isprintable()), quote=True)
