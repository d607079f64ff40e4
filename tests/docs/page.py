"""A documentation page as steps to run: files to write, commands and SQL with their output.

What of a page runs, told by the first line of each fenced block:

    ```console                commands after `$ `, each with its output; a line that ends in a
                              backslash goes on
    ```sql                    sent to psql; the ```text block right after it is the answer
    ```python functions/x.py  a file that is written (any language, any path)
    ```text flux-dev          what the terminal of `flux dev` shows since the last such block

Other blocks are only read. A line `...` in an output stands for any lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(r"^```(\S*)[ \t]*(.*)$")


@dataclass
class Block:
    """A fenced block: its language, what follows it, and its lines with the number of the first."""

    language: str
    argument: str
    first: int
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One thing to do.

    `kind` is `shell`, `sql`, `file` or `dev`. `first` and `count` say which lines of the page
    (from 0) hold the expected output; it is None where the page shows none.
    """

    kind: str
    line: int
    text: str
    expected: list[str] | None
    first: int = 0

    @property
    def count(self) -> int:
        return len(self.expected or [])


def read_blocks(source: str) -> list[Block]:
    """Every fenced block of a page."""
    blocks: list[Block] = []
    current: Block | None = None
    for number, line in enumerate(source.splitlines()):
        fence = _FENCE.match(line)
        if current is None and fence is not None:
            current = Block(fence[1], fence[2].strip(), number + 1)
        elif current is not None and line == "```":
            blocks.append(current)
            current = None
        elif current is not None:
            current.lines.append(line)
    assert current is None, f"line {current.first}: a block is never closed"
    return blocks


def read_steps(page: Path) -> list[Step]:
    """What there is to run on a page, in order."""
    steps: list[Step] = []
    blocks = read_blocks(page.read_text())
    for number, block in enumerate(blocks):
        if block.language == "console":
            steps += _commands(block)
        elif block.argument == "flux-dev":
            steps.append(Step("dev", block.first, "", block.lines, block.first))
        elif block.argument:
            text = "\n".join(block.lines) + "\n"
            steps.append(Step("file", block.first, f"{block.argument}\n{text}", None))
        elif block.language == "sql":
            following = blocks[number + 1] if number + 1 < len(blocks) else None
            steps.append(_query(block, following))
    return steps


def _commands(block: Block) -> list[Step]:
    steps: list[Step] = []
    number = 0
    while number < len(block.lines):
        line = block.first + number
        assert block.lines[number].startswith("$ "), f"line {line + 1}: not a command"
        command = block.lines[number][2:]
        number += 1
        while command.endswith("\\"):
            command += "\n" + block.lines[number]
            number += 1
        first = number
        while number < len(block.lines) and not block.lines[number].startswith("$ "):
            number += 1
        output = block.lines[first:number]
        steps.append(Step("shell", line, command, output, block.first + first))
    return steps


def _query(block: Block, following: Block | None) -> Step:
    text = "\n".join(block.lines)
    end = block.first + len(block.lines)
    shown = following is not None and (following.language, following.argument) == ("text", "")
    # An answer stands right behind its query: between the fences there is one empty line.
    if following is not None and shown and following.first <= end + 3:
        return Step("sql", block.first, text, following.lines, following.first)
    return Step("sql", block.first, text, None)
