"""Rules that turn a `flux.why/1` document into what a person should know and do next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flux_pg.analysis.changes import key_text, table_name
from flux_pg.analysis.since_success import commit_count, data_lines, file_lines, timing_lines
from flux_pg.analysis.text import clean, duration, short_id, show
from flux_pg.analysis.values_read import has_strong_reason, telling_values

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One thing to do next; `command` is None where there is nothing to type."""

    text: str
    command: str | None = None


_MALFORMED = "The client did not send valid HTTP; look at the client, or at a proxy in between."
_BY_RULE = {
    "route.not_found": "No function answers this path. `flux dev` lists the routes when it "
    "starts; a function's default path is /NAME.",
    "route.method_not_allowed": "The path exists, but not with this method; see `method=` of "
    "define_function.",
    "validate.input": "The input does not fit the function's parameters; the message names each "
    "fault.",
    "body.malformed": "The body is not what its Content-Type says.",
    "body.media_type": "No function reads this Content-Type; send JSON or a form.",
    "limit.body": "The body is larger than server.max_body in flux.toml.",
    "limit.headers": "The head is larger than server.max_headers in flux.toml.",
    "limit.target": "The request's target is too long.",
    "limit.connections": "Too many connections at once; add workers, or look at the clients.",
}

_BY_SQLSTATE = {
    "23505": "A row with this key exists already. Use `on conflict`, or look up the row first.",
    "23503": "The row it refers to does not exist, or others still refer to it. See who deleted "
    "or never wrote it.",
    "23502": "A required column got no value. Pass one, or give the column a default.",
    "23514": "The values break a check constraint of the table; the detail shows the row.",
    "23P01": "The row overlaps another one that an exclusion constraint forbids.",
    "22P02": "A value does not have the form its column's type needs.",
    "22001": "A text is longer than its column allows.",
    "22003": "A number is outside the range of its column's type.",
    "22012": "The statement divides by zero: guard it with nullif().",
    "42P01": "The table does not exist here. Is a migration missing?",
    "42703": "The column does not exist here. Is a migration missing?",
    "42883": "No function or operator of this name takes these types; a cast may be missing.",
    "42501": "The runtime's role lacks a right on this table.",
    "42601": "The SQL has a syntax error at the place the message names.",
    "40001": "Another transaction was in the way. Make it safe to retry (no outside call), or use "
    "a lower isolation level.",
    "40P01": "Two transactions waited for each other. Lock rows in one order everywhere.",
    "55P03": "A lock was not to be had in time; `flux doctor` shows the oldest transaction.",
    "57014": "The statement hit its time limit. Is an index missing, or is a lock held?",
    "25P02": "An earlier statement failed and its error was swallowed. Wrap what may fail in "
    "`async with ctx.db.transaction()`.",
    "53300": "The server has no free connection; lower database.pool_size or workers.",
}

_BY_OUTCOME = {
    "timeout": "It ran into its time limit. Look at its slowest spans, or raise `timeout=`.",
    "cancelled": "The client went away, and the function asked to be cancelled then "
    "(cancel_on_disconnect), or the worker was shut down.",
    "crashed": "The worker process died in the middle; nothing it wrote was committed unless shown "
    "here. Look at its log, and for memory limits.",
}

_OF_A_JOB = {
    "timeout": _BY_OUTCOME["timeout"],
    "cancelled": "Somebody cancelled the job (flux queue cancel), or its worker was shut down. "
    "What this attempt did was rolled back.",
    "crashed": "The worker died in the middle, or was not heard of for longer than queue.lease; "
    "nothing this attempt wrote was committed. Look at its log, and for memory limits.",
}

_LEASE_LOST = (
    "The worker gave no sign of life for longer than queue.lease, so another one took the job over "
    "and what this attempt did was refused. Was the worker stopped, or its event loop blocked?"
)

_BLOCKED = (
    "The line at LOCATION blocked every request of its worker. In an `async def` function use "
    "trio's own calls (trio.sleep, ctx.http); code that blocks belongs in a plain `def` function, "
    "which runs in a thread."
)

_COMMANDS_BY_SQLSTATE = {
    "42P01": "flux db status",
    "42703": "flux db status",
    "42501": "flux doctor",
    "55P03": "flux doctor",
    "53300": "flux doctor",
}


def advise(document: Document) -> list[Suggestion]:
    """Return what to do next, most telling first: advice, then commands from the record."""
    found: list[Suggestion] = []
    cause = document.get("root_cause")
    if isinstance(cause, Mapping):
        found += _about_cause(document, cause)
        found += _about_job(document)
        found += _about_calls(document, cause)
        found += _about_history(document)
    for given in document.get("suggestions") or []:
        found.append(Suggestion(str(given.get("text") or ""), given.get("command")))
    return found


def _about_cause(document: Document, cause: Mapping[str, Any]) -> list[Suggestion]:
    found = []
    rule, state = cause.get("refused_by"), cause.get("sqlstate")
    if rule:
        found.append(Suggestion(_advice_for_rule(rule)))
    elif state == "42501" and cause.get("role"):
        found += _about_rights(document, cause)
    elif state in _BY_SQLSTATE:
        found.append(Suggestion(_BY_SQLSTATE[state], _COMMANDS_BY_SQLSTATE.get(state)))
    elif document.get("outcome") == "crashed" and "event loop was blocked" in str(
        cause.get("message")
    ):
        found.append(Suggestion(_BLOCKED))
    elif cause.get("type") == "LeaseLost":
        found.append(Suggestion(_LEASE_LOST))
    elif document.get("outcome") in _BY_OUTCOME:
        told = _OF_A_JOB if document.get("job") else _BY_OUTCOME
        found.append(Suggestion(told[document["outcome"]]))
    if document.get("outcome") == "timeout":
        command = f"flux trace {short_id(str(document['request_id']))} --slow 100ms"
        found.append(Suggestion("only its slow spans", command))
    return found


_DENIED = re.compile(r"permission denied for (?:\w+ )*?(\w+) (\S+)$")


def _about_rights(document: Document, cause: Mapping[str, Any]) -> list[Suggestion]:
    """Postgres refused what the caller's role asked for."""
    role, denied = clean(str(cause["role"])), _DENIED.search(str(cause.get("message")))
    if denied is not None:
        told = (
            f"The role {role} has no such right on the {denied[1]} {clean(denied[2])}: if it "
            "should have, grant it in a migration."
        )
    else:
        told = f"The policies for the role {role} refuse this row, with the claims that it had."
    command = f"flux explain --request {short_id(str(document['request_id']))}"
    return [Suggestion(told), Suggestion("what the policies made of each statement", command)]


def _about_job(document: Document) -> list[Suggestion]:
    """What can be done about the job that a failed request was an attempt of."""
    job = document.get("job") or {}
    short = short_id(str(job.get("job_id")))
    if job.get("state") in ("dead", "cancelled"):
        text = "the job again, once the cause is gone"
        return [Suggestion(text, f"flux queue retry {short}")]
    if job.get("state") in ("retrying", "ready", "running"):
        return [Suggestion("what became of the job since", f"flux queue show {short}")]
    return []


def _about_calls(document: Document, cause: Mapping[str, Any]) -> list[Suggestion]:
    """The called function that the error came out of, the innermost one."""
    same = [
        call
        for call in document.get("called") or []
        if (call.get("error_type"), call.get("error_message") or "")
        == (cause.get("type"), cause.get("message"))
    ]
    if not same:
        return []
    command = f"flux why {short_id(str(same[-1]['request_id']))}"
    return [Suggestion(f"it came out of the call of {clean(str(same[-1]['function']))}", command)]


def _advice_for_rule(rule: str) -> str:
    if rule.startswith("http."):
        return _MALFORMED
    return _BY_RULE.get(rule, f"The rule {clean(rule)} turned it away.")


def _about_history(document: Document) -> list[Suggestion]:
    found = []
    for value in telling_values(document):
        writer = value["written_by"]["request_id"]
        if writer and has_strong_reason(value):
            subject = f"{table_name(value)} {key_text(value['pk'])}".rstrip()
            text = f"the request that wrote {clean(value['column'])} of {subject}"
            found.append(Suggestion(text, f"flux trace {short_id(str(writer))}"))
            break
    for row in document.get("previous") or []:
        if row.get("request_id"):
            verb = "deleted" if row.get("op") in ("DELETE", "TRUNCATE") else "wrote"
            subject = f"{table_name(row)} {key_text(row.get('pk'))}".rstrip()
            command = f"flux trace {short_id(str(row['request_id']))}"
            if command not in {suggestion.command for suggestion in found}:
                found.append(Suggestion(f"the request that {verb} {subject} before", command))
            break
    return found + _about_files(document)


def _about_files(document: Document) -> list[Suggestion]:
    """The diff to look at, if git has both commits and the project differs between them."""
    files = (document.get("changes") or {}).get("files")
    good, place = document.get("last_success"), document.get("location")
    if not (files and good and place):
        return []
    commits = f"{good['commit'][:10]}..{place['deployed_commit'][:10]}"
    if place["file"] in {one["file"] for one in files}:
        text = "what changed in this file since it last worked"
        return [Suggestion(text, f"git diff {commits} -- {shlex.quote(place['file'])}")]
    return [Suggestion("what changed since it last worked", f"git diff {commits} -- .")]


def changes_since_success(document: Document) -> list[str]:
    """Return how this request differs from the last one of its function that succeeded."""
    good = document.get("last_success")
    if not isinstance(good, Mapping):
        return []
    lines = []
    place = document.get("location") or {}
    now = place.get("deployed_commit") or place.get("commit")
    if good.get("commit") and now and good["commit"] != now:
        lines.append(f"commit      {good['commit'][:10]} → {now[:10]}{commit_count(document)}")
    elif good.get("commit") and now:
        dirty = " (files not committed)" if place.get("dirty") or good.get("dirty") else ""
        lines.append(f"commit      the same, {now[:10]}{dirty}")
    lines += file_lines(document)
    given = good.get("input"), document["input"]
    lines += [f"input       {text}" for text in shape_changes(*given) + value_changes(*given)]
    lines += data_lines(document)
    took, before = document.get("duration_us"), good.get("duration_us")
    if took is not None and before is not None:
        lines.append(f"duration    {duration(before)} → {duration(took)}")
    return lines + timing_lines(document)


def shape_changes(before: Any, now: Any, path: str = "", depth: int = 0) -> list[str]:
    """Return how the shape (keys and types, not values) of an input changed, a line each."""
    if depth > 6:
        return []
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        lines = []
        for key in [*before, *(k for k in now if k not in before)]:
            inner = f"{path}.{clean(str(key))}" if path else clean(str(key))
            if key not in now:
                lines.append(f"{inner} is missing now")
            elif key not in before:
                lines.append(f"{inner} is new: {show(now[key], 40)}")
            else:
                lines += shape_changes(before[key], now[key], inner, depth + 1)
        return lines
    if _type(before) != _type(now):
        where = path or "it"
        return [f"{where} was {_type(before)}, is {_type(now)}: {show(now, 40)}"]
    return []


def value_changes(before: Any, now: Any, path: str = "", limit: int = 5) -> list[str]:
    """Return which values of an input of the same shape differ, at most `limit` lines."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        lines: list[str] = []
        for key in before:
            if key in now and len(lines) < limit:
                inner = f"{path}.{clean(str(key))}" if path else clean(str(key))
                lines += value_changes(before[key], now[key], inner, limit - len(lines))
        return lines
    if _type(before) == _type(now) and before != now:
        return [f"{path or 'it'}: {show(before, 30)} → {show(now, 30)}"]
    return []


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float, Decimal)):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "an object" if isinstance(value, Mapping) else "a list"
