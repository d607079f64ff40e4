"""`flux why ID`: why a request failed, where, what it changed, and what to do next."""

from __future__ import annotations

from typing import Any

import click

from flux_pg.analysis.changes import column_changes, describe, key_text, table_name
from flux_pg.analysis.details import field_lines, statement_lines
from flux_pg.analysis.since_success import slower_steps
from flux_pg.analysis.text import clean, fit, short_id, show
from flux_pg.analysis.values_read import reasons_of, telling_values
from flux_pg.analysis.waterfall import label, lay_out, place
from flux_pg.analysis.why import advise, changes_since_success
from flux_pg.cli import git
from flux_pg.cli.lineage import add_lineage, read_spans
from flux_pg.cli.scope import Scope, examples, scoped
from flux_pg.cli.selectors import request_argument, show_ago, show_time, utc_now
from flux_pg.cli.session import open_database
from flux_pg.cli.style import Style, terminal_width
from flux_pg.cli.trace import headline, origin_lines, paint, subline, tree_of

_MANY_SPANS = 40
_MANY_CHANGES = 12
_MANY_FILES = 500


@click.command(
    epilog=examples(
        "flux why @last-error",
        "flux why 8f3a2c1d                   the end of an id is enough",
        "flux why @last-error --json | jq .root_cause",
    )
)
@request_argument
@scoped()
def why(scope: Scope, request: str) -> None:
    """Say why a request failed, where, and what it changed.

    Exits 0 once it has answered, also for a request that failed. ID is a request id, at least four
    digits of its beginning or end, a trace id, a job's id (its last failed attempt), @last,
    @last-error or @last-dead (the job that died last).
    """
    with open_database(scope.settings) as database:
        row = database.execute(
            "select w.document as why, flux.trace((w.document ->> 'request_id')::uuid) as trace"
            " from flux.why(%s::text) as w (document)",
            (request,),
        ).fetchone()
        assert row is not None
        document, trace = row["why"], row["trace"]
        good = document["last_success"] if document["root_cause"] else None
        before = read_spans(database, good["request_id"]) if good else []
        add_lineage(database, document, trace["spans"], before)
    line = add_history(scope, document)
    if good:
        document["changes"] = changes_since(scope, document, trace["spans"], before)
    document["suggestions"] = [{"text": s.text, "command": s.command} for s in advise(document)]
    if scope.as_json:
        scope.emit_json(document)
    else:
        scope.page(Page(document, trace, line, scope.style, terminal_width()).render())


def add_history(scope: Scope, document: dict[str, Any]) -> git.Line | None:
    """Fill in who wrote the line at fault, if the project's repository is here."""
    place_ = document["location"]
    if place_ is None:
        return None
    place_["deployed_commit"] = place_["commit"]
    project = scope.project_dir
    if project is None or not place_.get("line"):
        return None
    line = git.find_line(
        project, place_["file"], place_["line"], place_["commit"], bool(place_["dirty"])
    )
    if line is not None and line.author:
        place_["commit"] = line.commit
        place_["author"] = f"{line.author} <{line.email}>" if line.email else line.author
    return line


def changes_since(
    scope: Scope,
    document: dict[str, Any],
    spans: list[dict[str, Any]],
    before: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return what changed since the last success, beside what stands in the document itself.

    `commits` and `files` are null if git does not know both commits.
    """
    good, place_ = document["last_success"], document["location"] or {}
    old, new = good["commit"], place_.get("deployed_commit") or place_.get("commit")
    project, changes = scope.project_dir, None
    if project is not None and old and new and old != new:
        changes = git.changes_between(project, old, new)
    stack = document["root_cause"]["stack"] or []
    touched = {frame["file"] for frame in stack} | {place_.get("file")}
    files = [
        {"file": file, "status": status, "in_stack": file in touched}
        for file, status in (changes.files if changes else ())[:_MANY_FILES]
    ]
    return {
        "commits": changes.commits if changes else None,
        "files": sorted(files, key=lambda one: not one["in_stack"]) if changes else None,
        "slower": slower_steps(spans, before),
    }


def _policy(policy: dict[str, Any]) -> str:
    kind = "" if policy["permissive"] else "restrictive, "
    roles = ", ".join(policy["roles"])
    return f"{policy['name']} on {policy['table']} ({kind}{policy['command']} to {roles})"


class Page:
    """The sections of the answer; a section without content is left out."""

    def __init__(
        self,
        document: dict[str, Any],
        trace: dict[str, Any],
        line: git.Line | None,
        style: Style,
        width: int,
    ) -> None:
        self.document = document
        self.trace = trace
        self.line = line
        self.style = style
        self.width = width
        self.lines: list[str] = []

    def render(self) -> str:
        """Return the whole page."""
        self.lines = [headline(self.document, self.style), subline(self.document, self.style)]
        self.lines += origin_lines(self.document, self.style, self.width)
        self._section("ROOT CAUSE", self._root_cause())
        self._section("LOCATION", self._location())
        self._section("INPUT", field_lines(self.document["input"], self.width - 4))
        self._section("EXECUTION GRAPH", self._graph())
        self._section("DATA CHANGES", self._data_changes())
        self._section("LINEAGE", self._lineage())
        self._section("CHANGED SINCE LAST SUCCESS", self._since_success())
        self._section("SIMILAR FAILURES", self._similar())
        self._section("SUGGESTIONS", self._suggestions())
        return "\n".join(self.lines)

    def _section(self, title: str, lines: list[str]) -> None:
        if lines:
            self.lines += ["", self.style.strong(title), *("  " + line for line in lines)]

    def _root_cause(self) -> list[str]:
        cause = self.document["root_cause"]
        if cause is None:
            return [self.style.good("none: the request succeeded")] if self._ended() else [
                self.style.warn("not known yet: the request has not ended")
            ]  # fmt: skip
        style = self.style
        lines = self._wrapped(f"{clean(cause['type'])}: {cause['message']}".rstrip(": "), style.bad)
        facts = [
            ("rule", cause["refused_by"]),
            ("role", cause.get("role")),
            ("policies", "; ".join(map(_policy, cause.get("policies") or []))),
            ("SQLSTATE", cause["sqlstate"]),
            ("detail", cause["detail"]),
            ("hint", cause["hint"]),
            ("in span", self._span_name(cause["span_id"])),
        ]
        for name, value in facts:
            if value:
                lines += self._wrapped(f"{name} {value}", style.dim if name == "in span" else str)
        lines += self._statement(cause["span_id"])
        if not self.document["complete"]:
            reason = clean(self.document["incomplete_reason"] or "")
            lines.append(style.warn(f"the record is incomplete: {reason}"))
        return lines

    def _ended(self) -> bool:
        return self.document["outcome"] is not None

    def _wrapped(self, text: str, paint_with: Any) -> list[str]:
        """Return a message over as many lines as it has, each cut to the width."""
        rows = text.splitlines() or [""]
        return [paint_with(fit(clean(row), self.width * 3)) for row in rows[:12]]

    def _span(self, span_id: str | None) -> dict[str, Any] | None:
        return next((span for span in self.trace["spans"] if span["span_id"] == span_id), None)

    def _span_name(self, span_id: str | None) -> str:
        span = self._span(span_id)
        return fit(label(span), self.width - 14) if span else ""

    def _statement(self, span_id: str | None) -> list[str]:
        span = self._span(span_id)
        return [self.style.dim(x) for x in statement_lines(span, self.width - 4)] if span else []

    def _location(self) -> list[str]:
        location = self.document["location"]
        if location is None:
            return []
        where = self.style.strong(place(location))
        if location.get("function"):
            where += f" in {clean(location['function'])}"
        lines = [where]
        line = self.line
        if line is None:
            if location["commit"]:
                lines.append(f"at commit {location['commit'][:10]}")
            return lines
        if line.text.strip():
            number = self.style.dim(f"{location['line']:>5} │ ")
            lines.append(number + fit(clean(line.text.rstrip()), self.width - 12))
        lines += self._author(line)
        return lines

    def _author(self, line: git.Line) -> list[str]:
        if not line.author:
            reason = "the line is not committed" if line.from_working_tree else "not in git"
            return [self.style.dim(reason)]
        when = show_time(line.at, seconds=False) if line.at else ""
        text = f"{line.commit[:10]}  {clean(line.author)}  {when}  {clean(line.summary)}"
        return [self.style.dim(fit(text, self.width - 4))]

    def _graph(self) -> list[str]:
        # Of the calls only those that this request made itself: its spans are the tree.
        called = [row for row in self.document["called"] if self._span(row["span_id"])]
        bare = {**self.trace, "mutations": [], "jobs": [*called, *self.trace["jobs"]]}
        many = len(self.trace["spans"]) > _MANY_SPANS
        slow_us = (self.document["duration_us"] or 0) // 50 if many else 0
        waterfall = lay_out(tree_of(bare), self.width - 2, slow_us, details=False)
        painted = paint(waterfall, self.style)
        return [line.removeprefix("  ") for line in painted]

    def _data_changes(self) -> list[str]:
        mutations = [
            *self.document["mutations"],
            *({**row, "by": _call_name(call)}
              for call in self.document["called"] for row in call["mutations"]),
        ]  # fmt: skip
        lines: list[str] = []
        outcomes = {m["outcome"] for m in mutations}
        for outcome in sorted(outcomes):
            rows = [m for m in mutations if m["outcome"] == outcome]
            verdict = outcome.replace("_", " ")
            meaning = "is in the database" if outcome == "committed" else "never became visible"
            count = f"{verdict}: {len(rows)} row change{'s' if len(rows) > 1 else ''}"
            lines.append(self.style.outcome(outcome, count) + self.style.dim(f", {meaning}"))
            by = None
            for row in rows[:_MANY_CHANGES]:
                if row.get("by") != by:
                    by = row.get("by")
                    lines.append(self.style.dim(fit(f"  in {by}", self.width - 4)))
                lines += self._change(row)
            if len(rows) > _MANY_CHANGES:
                lines.append(self.style.dim(f"… {len(rows) - _MANY_CHANGES} more: flux trace"))
        return lines

    def _change(self, row: dict[str, Any]) -> list[str]:
        if row["op"] != "UPDATE":
            return ["  " + describe(row, self.width - 6)]
        lines = [f"  ~ UPDATE {table_name(row)} {key_text(row['pk'])}".rstrip()]
        room = max((self.width - 24) // 2, 12)
        for column, old, new in column_changes(row):
            lines.append(f"      {clean(column)}: {show(old, room)} → {show(new, room)}")
        return lines

    def _lineage(self) -> list[str]:
        if self.document["root_cause"] is None:
            return []
        lines = self._values_read()
        for row in self.document["previous"]:
            subject = f"{table_name(row)} {key_text(row['pk'])}".rstrip()
            relation = row["relation"]
            if row["op"] is None:
                what = "is in the way" if relation == "conflicting" else "does not exist"
                lines.append(f"{subject} {what}; no change of it is recorded")
                continue
            told = {
                "conflicting": "is in the way: last written by",
                "missing": "does not exist: " + (
                    "deleted by" if row["op"] in ("DELETE", "TRUNCATE") else "last written by"
                ),
            }.get(relation, "was last written by")  # fmt: skip
            when = show_ago(row["at"], utc_now())
            lines.append(f"{subject} {told} {self.style.accent(self._writer(row))} {when}")
            lines.append(self.style.dim("  " + describe(row, self.width - 6)))
        return lines

    def _values_read(self) -> list[str]:
        lines = []
        for value in telling_values(self.document):
            by, room = value["written_by"], self.width - 6
            subject = f"{table_name(value)} {key_text(value['pk'])}".rstrip()
            shown = f"{subject}  {clean(value['column'])} = {show(value['value'], 40)}"
            when = show_ago(by["at"], utc_now())
            lines.append(f"{shown}  written by {self.style.accent(self._writer(by))} {when}")
            reasons = reasons_of(value)
            if reasons:
                lines.append(self.style.dim("  " + fit(reasons, room)))
        return lines

    def _writer(self, row: dict[str, Any]) -> str:
        if row["request_id"]:
            return f"{clean(row['function'] or '')} {short_id(row['request_id'])}".strip()
        return f"{clean(row['actor'] or 'somebody')}, outside Flux"

    def _since_success(self) -> list[str]:
        if self.document["root_cause"] is None:
            return []
        good = self.document["last_success"]
        if good is None:
            if self.document["function"] is None:
                return []
            return [f"{clean(self.document['function'])} has no earlier success on record"]
        when = show_ago(good["started_at"], utc_now())
        return [f"{short_id(good['request_id'])} succeeded {when}"] + [
            fit(line, self.width - 4) for line in changes_since_success(self.document)
        ]

    def _similar(self) -> list[str]:
        now = utc_now()
        # A kind that came up only once, just now, is this request itself.
        rows = [
            row
            for row in self.document.get("similar") or []
            if row["matched_by"] != "fingerprint" or row["count"] > 1
        ]
        lines = []
        for row in rows:
            same = row["matched_by"] == "fingerprint"
            count = f"{row['count']:,}{'' if row['is_exact'] else ' or more'} times"
            count = "once" if row["count"] == 1 else count
            ago = [show_ago(row[name], now) for name in ("first_seen", "last_seen")]
            text = f"first {ago[0]}, last {ago[1]}" if row["count"] > 1 else ago[1]
            if row["first_commit"]:
                text += f", since commit {row['first_commit'][:10]}"
            if same:
                lines.append(f"the same failure {self.style.strong(count)}: {text}")
                continue
            name = f"{clean(row['function'] or '')} {short_id(row['request_id'])}".strip()
            lines.append(
                f"{row['similarity']:.0%} alike: {self.style.accent(name)}  {count}, {text}"
            )
            told = f"{clean(row['type'])}: {clean(row['message'] or '')}".rstrip(": ")
            lines.append(self.style.dim("  " + fit(told, self.width - 6)))
        return lines

    def _suggestions(self) -> list[str]:
        lines = []
        for suggestion in self.document["suggestions"]:
            text, command = suggestion["text"], suggestion["command"]
            if not command:
                lines += click.wrap_text(text, self.width - 4).splitlines()
                continue
            gap = " " * max(34 - len(command), 2)
            one_line = len(command) + len(gap) + len(text) + 2 <= self.width
            painted = self.style.accent(command)
            lines += [painted + gap + self.style.dim(text)] if one_line else [
                painted, "    " + self.style.dim(fit(text, self.width - 8)),
            ]  # fmt: skip
        return lines


def _call_name(call: dict[str, Any]) -> str:
    """Return a called function and the id of its record."""
    return f"{call['kind']} {clean(call['function'] or '')} {short_id(call['request_id'])}"
