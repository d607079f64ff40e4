"""`flux state history` and `flux state blame`: who changed a row, who owns each column."""

from __future__ import annotations

from datetime import UTC, datetime
from textwrap import wrap
from typing import Any
from uuid import UUID

import click
from tabulate import MIN_PADDING, tabulate

from flux_pg.analysis.history import change_lines
from flux_pg.analysis.text import cells, clean, fit, plural, short_id, show
from flux_pg.analysis.waterfall import place
from flux_pg.cli import git
from flux_pg.cli.scope import Scope, examples, scoped
from flux_pg.cli.selectors import read_time, read_window, show_ago, show_time, utc_now
from flux_pg.cli.session import Database, open_database
from flux_pg.cli.style import Style, terminal_width
from flux_pg.errors import NotFoundError, UsageError

PAGE = 1000
"""How many changes people are shown who do not say how many."""


@click.group(
    epilog=examples("flux state history users 42", "flux state blame users 42")
)  # fmt: skip
def state() -> None:
    """Show who changed a row, and who owns each column of it."""


@state.command(
    epilog=examples(
        "flux state history users 42",
        "flux state history users 42 --column plan --since 7d",
        "flux state history users 42 --at '2026-05-01 14:05'",
        """flux state history order_lines '{"order_id": 7, "line": 2}'""",
        "flux state history users 42 --include-rolled-back --json",
    )
)
@click.argument("table")
@click.argument("pk")
@click.option("--since", metavar="TIME", help="Changes since then; A..B is a window.")
@click.option("--until", metavar="TIME", help="Changes until then.")
@click.option("--column", metavar="NAME", help="Only changes of this column.")
@click.option("--request", metavar="ID", help="Only changes by this request.")
@click.option("--include-rolled-back", is_flag=True, help="Also what was tried and undone.")
@click.option("--at", metavar="TIME", help="Show the row as it was then.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help=f"The newest N changes: {PAGE:,} unless told otherwise, all of them with --json.",
)
@scoped()
def history(scope: Scope, /, table: str, pk: str, **options: Any) -> None:
    """Show every change of a row, newest last, linked to the request that made it.

    PK is the key as a plain value, or a JSON object of the key's columns. With --at, the row as the
    newest moment stored up to then has it, and which moment that is.
    """
    if options["at"]:
        _show_row_at(scope, table, pk, options)
        return
    begin, end = read_window(options["since"], options["until"], utc_now())
    limit = options["limit"] or (None if scope.as_json else PAGE)
    with open_database(scope.settings) as database:
        # One more, to know whether there are more; the end of the window is cut off here.
        asked = limit + 1 if limit and end is None else None
        versions = _versions(database, table, pk, begin, asked, options)
    versions = [v for v in versions if end is None or v["at"] < end]
    found = sum(version["op"] != "GAP" for version in versions)
    if limit:
        versions = _newest(versions, limit)
    if scope.as_json:
        document = {"schema": "flux.history/1", "table": table, "pk": _key_of(versions, pk)}
        scope.emit_json({**document, "versions": [_version_json(v) for v in versions]})
        return
    if not versions:
        scope.note("no such changes")
        return
    scope.page(_history_table(versions, scope.style, terminal_width()))
    shown = sum(version["op"] != "GAP" for version in versions)
    gaps = sum(version["op"] == "GAP" for version in versions)
    scope.note(
        plural(shown, "change")
        if found <= shown
        else f"the newest {plural(shown, 'change')}; there are more, see --limit"
    )
    if gaps:
        scope.note(scope.notes.warn("the table was not tracked for a time: see GAP"))


def _versions(
    database: Database,
    table: str,
    pk: str,
    begin: datetime | None,
    limit: int | None,
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    """Return the versions; an unknown row is told from one without such changes."""
    request: UUID | None = None
    if options["request"]:
        row = database.execute(
            "select flux.resolve_request(%s) as id", (options["request"],)
        ).fetchone()
        assert row is not None
        request = row["id"]
    query = (
        "select h.seq, h.op, h.at, h.request_id::text, h.span_id, h.function, h.commit, h.outcome,"
        " h.actor, h.changed, h.old, h.new, h.pk"
        " from flux.history(%s, %s, %s, %s, %s, %s, %s) with ordinality as h"
        " (seq, op, at, request_id, span_id, function, commit, outcome, actor, changed, old, new,"
        " pk, position) order by h.position"
    )
    rolled_back = options["include_rolled_back"]
    arguments = (table, pk, begin, options["column"], request, rolled_back, limit)
    versions = database.execute(query.encode(), arguments).fetchall()
    if not versions:
        _require_history(database, table, pk)
    _add_locations(database, versions)
    return versions


def _require_history(database: Database, table: str, pk: str) -> None:
    row = database.execute(
        "select exists (select from flux.history("
        "%s, %s, p_include_rolled_back => true, p_limit => 1)) as known",
        (table, pk),
    ).fetchone()
    if row is None or not row["known"]:
        raise NotFoundError(
            f"no change of row {clean(pk)} of {clean(table)} is recorded",
            "Check the key. `flux db status` shows since when the table is tracked.",
            code="no-row",
        )


def _add_locations(database: Database, rows: list[dict[str, Any]]) -> None:
    """Add to each row the place in the code of the span that wrote it."""
    requests = list({UUID(r["request_id"]) for r in rows if r["request_id"]})[:500]
    places: dict[tuple[str, str], Any] = {}
    if requests:
        found = database.execute(
            "select s.request_id::text, s.span_id, s.location from flux.spans as s"
            " where s.request_id = any (%s) and s.location is not null",
            (requests,),
        )
        places = {(f["request_id"], f["span_id"]): f["location"] for f in found}
    for row in rows:
        row["location"] = places.get((row["request_id"], row["span_id"]))


def _newest(versions: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Return the last `limit` changes, with the gaps after the first of them."""
    changes = [i for i, version in enumerate(versions) if version["op"] != "GAP"]
    return versions[changes[-limit] :] if len(changes) > limit else versions


def _key_of(versions: list[dict[str, Any]], pk: str) -> Any:
    return next((v["pk"] for v in reversed(versions) if v["pk"] is not None), pk)


def _version_json(version: dict[str, Any]) -> dict[str, Any]:
    return {**version, "at": _iso(version["at"])}


def _iso(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _history_table(versions: list[dict[str, Any]], style: Style, width: int) -> str:
    # When, op and by take what they need; the change gets the rest.
    by = [
        [""] if version["op"] == "GAP" else [fit(text, 24) for text in _origin(version)]
        for version in versions
    ]
    by_width = max(max(map(cells, lines)) for lines in by)
    room = max(width - 19 - 8 - by_width - 6, 16)
    rows = []
    for version, (writer, *below) in zip(versions, by, strict=True):
        if version["op"] == "GAP":
            told = "\n".join(wrap(clean(version["actor"]), room))
            rows.append([show_time(version["at"]), style.warn("GAP"), style.warn(told), ""])
            continue
        lines = [fit(line, room) for line in change_lines(version, room)] or ["-"]
        if version["outcome"] != "committed":
            lines = [style.warn(line) for line in [*lines, "(rolled back)"]]
        rows.append(
            [
                show_time(version["at"]),
                _paint_op(version["op"], style),
                "\n".join(lines),
                "\n".join([writer, *map(style.dim, below)]),
            ]
        )
    return tabulate(rows, headers=["when", "op", "change", "by"], disable_numparse=True)


def _origin(version: dict[str, Any]) -> list[str]:
    """Return who wrote a version, and if it is known where and at which commit."""
    commit = f"commit {version['commit'][:10]}" if version["commit"] else ""
    found = [_writer(version, 24), place(version["location"]), commit]
    return [found[0], *(text for text in found[1:] if text)]


def _paint_op(op: str, style: Style) -> str:
    return {"INSERT": style.good, "DELETE": style.bad, "TRUNCATE": style.bad}.get(op, style.accent)(
        op
    )


def _writer(row: dict[str, Any], width: int) -> str:
    """Return who wrote a version: function and request, or a role outside Flux."""
    if row["request_id"]:
        return fit(f"{clean(row['function'] or '?')} {short_id(row['request_id'])}", width)
    return fit(clean(row["actor"] or "outside Flux"), width)


def _show_row_at(scope: Scope, table: str, pk: str, options: dict[str, Any]) -> None:
    others = [name for name, given in options.items() if given and name != "at"]
    if others:
        other = others[0].replace("_", "-")
        raise UsageError(
            f"--at shows a row, not its changes: --{other} says nothing there", "Give --at alone."
        )
    moment = read_time(options["at"], utc_now())
    # The owner of the table: no policy hides the row from it.
    with open_database(scope.settings, admin=True) as database:
        found = database.execute(
            'select r."row", r.as_of from flux.row_at(%s, %s, %s) as r', (table, pk, moment)
        ).fetchone()
        assert found is not None
        row, as_of = found["row"], found["as_of"]
        if row is None:
            _require_history(database, table, pk)
    if scope.as_json:
        scope.emit_json(
            {"schema": "flux.row/1", "table": table, "pk": pk, "at": _iso(moment),
             "as_of": _iso(as_of), "row": row}
        )  # fmt: skip
        return
    name = f"{clean(table)} {clean(pk)}"
    scope.note(
        f"{name} {'as it was' if row else 'was not there'} at {show_time(as_of)},"
        f" the newest moment stored up to {show_time(moment)}"
    )
    if row is None:
        return
    width = terminal_width()
    listed = [[clean(name), show(value, max(width - 30, 20))] for name, value in row.items()]
    scope.emit(tabulate(listed, headers=["column", "value"], disable_numparse=True))


@state.command(
    epilog=examples(
        "flux state blame users 42",
        """flux state blame order_lines '{"order_id": 7, "line": 2}'""",
        "flux state blame users 42 --json | jq '.columns[] | select(.column == \"plan\")'",
    )
)
@click.argument("table")
@click.argument("pk")
@click.option("--column", metavar="NAME", help="Only this column.")
@scoped()
def blame(scope: Scope, table: str, pk: str, column: str | None) -> None:
    """Show for each column of a row its value and who wrote it last.

    Only committed writes own a column; later attempts that were rolled back are a footnote. PK is
    the key as a plain value, or a JSON object of the key's columns.
    """
    with open_database(scope.settings) as database:
        rows = database.execute(
            'select b."column", b.value, b.request_id::text, b.span_id, b.function, b.op, b.at,'
            " b.actor, b.commit, b.failed_attempts, b.last_failed_request::text"
            " from flux.blame(%s, %s) as b",
            (table, pk),
        ).fetchall()
        _add_locations(database, rows)
    if column is not None:
        rows = [row for row in rows if row["column"] == column]
        if not rows:
            raise NotFoundError(
                f"{clean(table)} has no column {clean(column)}", "Leave --column out to see all.",
                code="no-column",
            )  # fmt: skip
    _add_authors(scope, rows)
    if scope.as_json:
        columns = [{**row, "at": _iso(row["at"])} for row in rows]
        scope.emit_json({"schema": "flux.blame/1", "table": table, "pk": pk, "columns": columns})
        return
    scope.page(_blame_table(rows, scope.style, terminal_width()))
    _footnotes(scope, rows)


def _add_authors(scope: Scope, rows: list[dict[str, Any]]) -> None:
    """Add who wrote the line that wrote each value, if the project's repository is here."""
    known: dict[tuple[Any, ...], git.Line | None] = {}
    for row in rows:
        row["author"] = None
        row["line_commit"] = None
        location = row["location"]
        if scope.project_dir is None or not location or not row["commit"]:
            continue
        key = (location["file"], location["line"], row["commit"])
        if key not in known:
            known[key] = git.find_line(scope.project_dir, *key, dirty=False)
        line = known[key]
        if line is not None and line.author:
            row["author"] = f"{line.author} <{line.email}>" if line.email else line.author
            row["line_commit"] = line.commit


def _blame_table(rows: list[dict[str, Any]], style: Style, width: int) -> str:
    now = utc_now()
    headers = ["column", "value", "by", "where", "commit", "when"]
    lines = [
        [
            clean(row["column"]),
            show(row["value"], 200),
            _owner(row),
            place(row["location"]),
            _line_commit(row),
            show_ago(row["at"], now) if row["at"] else "",
        ]
        for row in rows
    ]
    # Columns that say nothing in any line are left out; what is long gives way in this order.
    for index in (4, 3):
        if not any(line[index] for line in lines):
            headers.pop(index)
            for line in lines:
                line.pop(index)
    _shrink(lines, headers, width)
    painted = [
        [style.strong(line[0]), line[1], *(style.accent(text) for text in line[2:3]), *line[3:]]
        for line in lines
    ]
    return tabulate(painted, headers=headers, disable_numparse=True)


def _owner(row: dict[str, Any]) -> str:
    """Return who wrote a column last; the whole story of an unknown writer is a footnote."""
    if row["op"]:
        return _writer(row, 26)
    return "unknown" if row["actor"] else "before recording"


def _line_commit(row: dict[str, Any]) -> str:
    commit = row["line_commit"] or row["commit"]
    if not commit:
        return ""
    author = clean(row["author"].split(" <")[0]) if row["author"] else ""
    return f"{commit[:10]} {fit(author, 16)}".rstrip()


def _shrink(lines: list[list[str]], headers: list[str], width: int) -> None:
    """Cut the longest of the value, where and commit columns until the table fits."""
    for name, least in (("value", 16), ("commit", 10), ("where", 20), ("value", 8), ("by", 16)):
        widths = [
            max([cells(headers[i]) + MIN_PADDING, *(cells(line[i]) for line in lines)])
            for i in range(len(headers))
        ]
        over = sum(widths) + 2 * (len(headers) - 1) - width
        if over <= 0 or name not in headers:
            continue
        index = headers.index(name)
        limit = max(widths[index] - over, least)
        for line in lines:
            line[index] = _cut(name, line[index], limit)


def _cut(name: str, text: str, limit: int) -> str:
    """Cut a cell to `limit` columns where it says least: a place keeps its end, the line."""
    if cells(text) <= limit:
        return text
    if name == "where":
        return "…" + text[1 - limit :]
    return text[:10] if name == "commit" else fit(text, limit)


def _footnotes(scope: Scope, rows: list[dict[str, Any]]) -> None:
    unknown: dict[str, list[str]] = {}
    for row in rows:
        if not row["op"] and row["actor"]:
            unknown.setdefault(row["actor"], []).append(clean(row["column"]))
    for why, columns in unknown.items():
        scope.note(scope.notes.warn(f"{', '.join(columns)}: {clean(why)}"))
    for row in rows:
        if row["failed_attempts"]:
            what = plural(row["failed_attempts"], "later attempt")
            last = row["last_failed_request"]
            pointer = f"; last by {short_id(last)}" if last else ""
            scope.note(f"{clean(row['column'])}: {what} rolled back{pointer}")
