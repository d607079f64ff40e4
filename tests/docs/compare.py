"""Whether an output is the one on the page, apart from what is never twice the same.

The volatile parts are these and no others:

- ids and commits: anything may stand there, but one id of the page is one id of the run, wherever
  it appears again, also as the short form of its last eight digits, also in a command;
- times, ages, durations, and the bars of a waterfall: any other of the same kind;
- the width of columns, which follows from the above: runs of blanks and rules count as one, and
  a word that was cut to fit (`greet…`) may be cut elsewhere.

Ports are mapped by the session (a page always says 4000).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_KINDS = {
    "uuid": r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
    "date": r"\b[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT",
    "time": r"\b\d{4}-\d\d-\d\d(?:[ T][\d:.]+(?:Z|[+-]\d\d[\d:]*)?(?:…|\"(?=\s|$))?)?",
    "clock": r"\b\d\d:\d\d:\d\d(?:\.\d+)?\b",
    "duration": r"\b(?:\d+m\d\ds|\d+(?:\.\d+)? ?(?:µs|us|ms|s|min|h))\b(?: ago)?",
    "microseconds": r'"(?:start|duration)_us": \d+',
    "size": r"\b\d+(?:\.\d+)? [KMG]iB\b",
    "address": r"\b127\.0\.0\.1:\d+\b",
    "bar": r"[█▉▊▋▌▍▎▏]+",
    "cut": r'…[^\s|"]+|[^\s|"]+…',
    "hex": r"\b[0-9a-f]{7,40}\b",
}
_TOKEN = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _KINDS.items()))
_IDENTITIES = ("uuid", "hex")
_BLANKS = re.compile(r"[ \t]{2,}")
_RULES = re.compile(r"-{2,}|─{2,}")
ANY = "..."


class Unequal(Exception):
    """The first difference, for people; `shown` is the whole output of the run."""

    shown: list[str] = []


@dataclass
class Names:
    """Which id of the run an id of the page stands for; never two for one."""

    real: dict[str, str] = field(default_factory=dict)

    def bind(self, page: str, real: str) -> bool:
        """Note that they are the same; False if that contradicts what was noted before."""
        pairs = [(page, real)]
        if len(page) == 36:
            pairs.append((page[-8:], real[-8:]))
        for left, right in pairs:
            if self.real.get(left, right) != right:
                return False
            if left not in self.real and right in self.real.values():
                return False
            self.real[left] = right
        return True

    def adopt(self, shown: list[str]) -> list[str]:
        """An output as the page would show it: ids it knows by its own, new ones as they are."""

        def own(token: re.Match[str]) -> str:
            known = {real: page for page, real in self.real.items()}
            if token.lastgroup in _IDENTITIES and token[0] not in known:
                # A long id whose short form the page has shown already ends as that one does.
                page = token[0][:-8] + known.get(token[0][-8:], token[0][-8:])
                self.bind(page, token[0])
                return page
            return known.get(token[0], token[0])

        return [_TOKEN.sub(own, line) for line in shown]

    def translate(self, command: str) -> str:
        """A command of the page with the ids of this run."""

        def real(token: re.Match[str]) -> str:
            if token.lastgroup not in _IDENTITIES:
                return token[0]
            if token[0] not in self.real:
                raise Unequal(f"the command uses {token[0]}, which nothing before it showed")
            return self.real[token[0]]

        return _TOKEN.sub(real, command)


def split(line: str) -> tuple[list[str], list[tuple[str, str]]]:
    """A line's fixed text around its tokens, and the tokens with their kinds."""
    fixed, tokens, at = [], [], 0
    for match in _TOKEN.finditer(line):
        fixed.append(line[at : match.start()])
        tokens.append((str(match.lastgroup), match[0]))
        at = match.end()
    fixed.append(line[at:])
    tidy = [_RULES.sub("--", _BLANKS.sub(" ", text)) for text in fixed]
    tidy[-1] = tidy[-1].rstrip()
    return tidy, tokens


def same_line(page: str, real: str, names: Names) -> bool:
    """Whether two lines say the same; notes the ids they show."""
    page_fixed, page_tokens = split(page.rstrip())
    real_fixed, real_tokens = split(real.rstrip())
    if [text.strip() for text in page_fixed] != [text.strip() for text in real_fixed]:
        return False
    if [kind for kind, _ in page_tokens] != [kind for kind, _ in real_tokens]:
        return False
    return all(
        kind not in _IDENTITIES or (len(left) == len(right) and names.bind(left, right))
        for (kind, left), (_, right) in zip(page_tokens, real_tokens, strict=True)
    )


def trimmed(lines: list[str]) -> list[str]:
    """Without the empty lines at both ends."""
    first, last = 0, len(lines)
    while first < last and not lines[first].strip():
        first += 1
    while last > first and not lines[last - 1].strip():
        last -= 1
    return lines[first:last]


def check(page: list[str], real: list[str], names: Names) -> None:
    """Compare an output with the page's; notes the ids it shows.

    Raises:
        Unequal: They differ; says where.
    """
    page, real = trimmed(page), trimmed(real)
    at = 0
    parts = _parts(page)
    for index, part in enumerate(parts):
        latest = len(real) - len(part)
        # The first part starts the output, the last one ends it, those between come in order.
        starts = range(at, latest + 1)
        if index == 0:
            starts = range(0, 1) if latest >= 0 else range(0)
        if index == len(parts) - 1:
            starts = range(max(latest, at), latest + 1) if len(parts) > 1 else starts
            if len(parts) == 1 and len(real) != len(part):
                starts = range(0)
        for start in starts:
            trial = Names(dict(names.real))
            if all(same_line(p, r, trial) for p, r in zip(part, real[start:], strict=False)):
                names.real, at = trial.real, start + len(part)
                break
        else:
            raise Unequal(_difference(page, real, names))


def _parts(page: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for line in page:
        if line.strip() == ANY:
            parts.append([])
        else:
            parts[-1].append(line)
    return parts


def _difference(page: list[str], real: list[str], names: Names) -> str:
    trial = Names(dict(names.real))
    for left, right in zip(page, real, strict=False):
        if left.strip() == ANY:
            break
        if not same_line(left, right, trial):
            return f"the page has  {left!r}\nthe run has   {right!r}"
    return "the page has\n  {}\nthe run has\n  {}".format("\n  ".join(page), "\n  ".join(real))
