"""What `flux explain` shows people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flux_pg.cli.style import Style
from flux_pg.explain.document import Statement, columns, writes
from flux_pg.explain.indexes import Trial
from flux_pg.explain.plan import draw
from flux_pg.explain.policies import USING, Applied
from flux_pg.explain.session import Session

_UNTRIED = "`flux explain --verify-indexes` builds it, and rolls back"


class Page:
    """The page of some statements explained for one role."""

    def __init__(self, session: Session, style: Style) -> None:
        self._session = session
        self._style = style

    def render(self, statements: list[Statement]) -> str:
        """The whole text."""
        lines: list[str] = []
        for number, statement in enumerate(statements, 1):
            if len(statements) > 1:
                title = f"statement {number} of {len(statements)}, as {self._session.role}"
            else:
                title = f"as {self._session.role}"
            lines += [self._style.strong(title), *self._statement(statement), ""]
        return "\n".join(lines).rstrip()

    def _statement(self, found: Statement) -> Iterator[str]:
        yield from _indented(found.sql)
        if found.error is not None:
            yield from self._error(found)
            return
        yield from self._refusals(found)
        yield from self._policies(found)
        if found.preview.sql is not None:
            yield from self._section("PREVIEW")
            same = found.preview.sql == found.sql
            yield from (["  the same"] if same else _indented(found.preview.sql))
        yield from self._effects(found)
        yield from self._plan(found)
        yield from self._warnings(found)

    def _section(self, title: str) -> Iterator[str]:
        yield ""
        yield self._style.strong(title)

    def _error(self, found: Statement) -> Iterator[str]:
        assert found.error is not None
        yield from self._section("ERROR")
        yield f"  {self._style.bad(str(found.error['message']))}"
        yield from (f"  {line}" for line in caret(found.sql, found.error))
        if found.error.get("hint"):
            yield f"  {self._style.dim(found.error['hint'])}"

    def _refusals(self, found: Statement) -> Iterator[str]:
        if found.preview.refused:
            yield from self._section("REFUSED")
            yield from (f"  {self._style.bad(text)}" for text in found.preview.refused)
        if found.preview.unsupported:
            yield from self._section("NOT PREVIEWED")
            yield from (f"  {self._style.warn(text)}" for text in found.preview.unsupported)

    def _policies(self, found: Statement) -> Iterator[str]:
        applied, exempt = found.preview.applied, found.preview.exempt
        if not applied and not exempt:
            return
        yield from self._section("POLICIES")
        for (relation, name, expression, because), uses in _by_policy(applied).items():
            yield f"  {self._style.accent(name or '(no policy)')} on {relation}"
            yield from _indented(expression, "    ")
            yield f"    {self._style.dim(because)}"
            yield from (f"    {self._style.dim(use)}" for use in uses)
        for reason in exempt:
            yield f"  {self._style.dim(reason)}"

    def _effects(self, found: Statement) -> Iterator[str]:
        used = columns(found)
        if used["read"] or used["written"]:
            yield from self._section("COLUMNS")
            for word, names in used.items():
                if names:
                    yield f"  {word:8} {_by_table(names)}"
        listed = writes(found)
        if listed:
            yield from self._section("WRITES")
        for write in listed:
            because = self._style.dim(f"  {write['because']}") if write["because"] else ""
            yield f"  {self._style.accent(write['op'])} {write['table']}{because}"
            for trigger in write["triggers"]:
                yield (
                    f"    fires {trigger['name']}: {trigger['function']}()"
                    f" {trigger['timing'].lower()} each {trigger['level'].lower()}"
                )

    def _plan(self, found: Statement) -> Iterator[str]:
        if found.plan is not None:
            yield from self._section("PLAN")
            yield from (f"  {line}" for line in draw(found.plan))
        if found.plan_note:
            if found.plan is None:
                yield from self._section("PLAN")
            yield f"  {self._style.dim(found.plan_note)}"

    def _warnings(self, found: Statement) -> Iterator[str]:
        if found.warnings:
            yield from self._section("WARNINGS")
        for warning in found.warnings:
            yield f"  {self._style.warn(warning.message)}"
            yield f"    {warning.remedy}"
            if warning.indexes:
                trial = warning.trial or Trial(warning.indexes[0])
                yield f"    {self._style.dim(_trial(trial))}"


def _trial(trial: Trial) -> str:
    """What Postgres made of an advised index."""
    if trial.used is None:
        return f"not tried: {trial.note or _UNTRIED}"
    way = "built and rolled back" if trial.how == "created" else "with hypopg, nothing built"
    change = f"cost {trial.cost_before or 0:,.2f} → {trial.cost_after or 0:,.2f}"
    parts = [f"tried ({way}): {change}"]
    if trial.used and trial.size_bytes is not None:
        parts.append(f"some {size(trial.size_bytes)}")
    return "; ".join([*parts, *([trial.note] if trial.note else [])])


def size(count: int) -> str:
    """A number of bytes for people."""
    for unit, bytes_ in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= bytes_:
            return f"{count / bytes_:.1f} {unit}"
    return f"{count >> 10} KiB"


def caret(sql: str, error: dict[str, Any]) -> list[str]:
    """The line of an error with a caret below its place; empty if the place is not known."""
    position = error.get("position")
    if position is None or not 0 <= position <= len(sql):
        return []
    start = sql.rfind("\n", 0, position) + 1
    end = sql.find("\n", position)
    line = sql[start : end if end >= 0 else len(sql)]
    label = f"line {sql.count(chr(10), 0, position) + 1}: "
    before = line[: position - start].replace("\t", " ")
    return [label + line.replace("\t", " "), " " * (len(label) + len(before)) + "^"]


def _indented(text: str, lead: str = "  ") -> Iterator[str]:
    return (lead + line for line in text.splitlines())


def _by_policy(applied: list[Applied]) -> dict[tuple[str, str, str, str], list[str]]:
    """Each policy once, with what it does to which rows."""
    found: dict[tuple[str, str, str, str], dict[str, list[str]]] = {}
    for each in applied:
        name = each.policy.name if each.policy is not None else ""
        key = (each.relation.qualified, name, each.expression, each.because)
        verb = "hides rows from" if each.clause == USING else "refuses new rows of"
        uses = found.setdefault(key, {}).setdefault(verb, [])
        uses.append(each.command if each.clause == USING or each.command != "SELECT" else "a read")
    return {
        key: [f"{verb} {', '.join(commands)}" for verb, commands in uses.items()]
        for key, uses in found.items()
    }


def _by_table(names: list[str]) -> str:
    tables: dict[str, list[str]] = {}
    for name in names:
        table, _, column = name.rpartition(".")
        tables.setdefault(table, []).append(column)
    return "; ".join(f"{table} ({', '.join(found)})" for table, found in tables.items())


def why_not(style: Style, rows: list[dict[str, Any]], label: str) -> str:
    """Which policies let a row pass and which hide it."""
    lines = [style.strong(f"why not {label}")]
    for row in rows:
        word = style.good("passes") if row["passes"] else style.bad("hides it")
        if row["passes"] is None:
            word = style.warn("fails: " + row["error"])
        lines.append(f"  {row['name'] or '(no policy)'}  {row['kind']}, {word}")
        lines += list(_indented(row["expression"], "    "))
    return "\n".join(lines)
