"""Commands in documents: what a ```console block says, and whether that came out.

A console block is a shell session: ``$ `` starts a command, the lines after it are its output, in
which ``...`` stands for anything (within a line, or lines of its own). No lines: any output. A
command that stays in the foreground (`FOREGROUND`) is left running until the document ends.
A ```python block that begins with ``# NAME.py`` is that file, in the folder the commands run in.
One that ends with comments is a program, and they are what it prints.
A block below ``<!-- not run: why -->`` is not run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FOREGROUND = re.compile(r"(drupelet (run|demo|chan)|make run)\b")
_FENCE = re.compile(
    r"(?P<before>[^\n]*)\n+```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^```", re.M | re.S
)
_EXCUSED = re.compile(r"\s*<!-- not run: \S.* -->\s*")
_PRINTED = re.compile(r"(^#[^\n]*\n)+\Z", re.M)
_FILE = re.compile(r"# (\w+\.py)\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command with the output that the document shows; `line` is its place in the document."""

    line: int
    text: str
    output: str

    @property
    def stays(self) -> bool:
        return FOREGROUND.search(self.text) is not None


def commands(document: str) -> list[Command]:
    """The commands of a document in their order."""
    found = []
    for block in _blocks(document, "console"):
        line = document.count("\n", 0, block.start("body")) + 1
        text, output, start = "", [], line
        for number, row in enumerate([*block["body"].split("\n"), "$ "], start=line):
            if row.startswith("$ "):
                if text:
                    shown = "\n".join(output).strip("\n")
                    found.append(Command(line=start, text=text, output=shown))
                text, output, start = row[2:], [], number
            elif text:
                output.append(row)
    return found


def files(document: str) -> dict[str, str]:
    """The files that a document shows, by name."""
    bodies = [block["body"] for block in _blocks(document, "python")]
    return {name[1]: body for body in bodies if (name := _FILE.match(body))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An example that runs as it stands; `line` is its place in the document."""

    line: int
    text: str
    output: str


def programs(document: str) -> list[Program]:
    """The programs of a document in their order."""
    found = []
    for block in _blocks(document, "python"):
        text = block["body"]
        tail = _PRINTED.search(text)
        if tail is not None and not _FILE.match(text):
            line = document.count("\n", 0, block.start("body")) + 1
            rows = (row.removeprefix("#").removeprefix(" ") for row in tail[0].split("\n"))
            output = "\n".join(row.rstrip() for row in rows)
            found.append(Program(line=line, text=text, output=output.strip()))
    return found


def _blocks(document: str, language: str) -> list[re.Match[str]]:
    return [
        block
        for block in _FENCE.finditer("\n" + document)
        if block["language"] == language and not _EXCUSED.fullmatch(block["before"])
    ]


def matches(shown: str, real: str) -> bool:
    """Whether real output is what a document shows; ``...`` stands for anything."""
    pattern = re.escape(shown.strip()).replace(re.escape("..."), ".*")
    return not shown.strip() or re.fullmatch(pattern, real.strip(), re.DOTALL) is not None
