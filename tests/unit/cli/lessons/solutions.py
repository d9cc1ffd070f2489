"""What learners do to the lessons' programs: exercises solved, and mistakes. Text for text."""

from __future__ import annotations

from pathlib import Path

from drupelet.cli.lessons.course import LESSONS, Lesson
from drupelet.cli.lessons.program import Program
from drupelet.cli.lessons.simulated import run_simulated
from drupelet.cli.lessons.stage import Performance

Edit = tuple[str, str]

SOLVED: dict[int, list[Edit]] = {
    1: [
        (
            "    name, sender = await receive()\n    await send",
            "    while True:\n        name, sender = await receive()\n        await send",
        )
    ],
    2: [
        (
            '"a book"))\n',
            '"a book"))\n    await send(house, ("parcel", "a ball"))\n',
        ),
        (
            '    print("first the parcel:", what)\n',
            '    print("first the parcel:", what)\n'
            '    kind, what = await receive(("parcel", ANY))\n    print("and", what)\n',
        ),
    ],
    3: [
        (
            '            case ("get"',
            '            case "less":\n                number -= 1\n'
            '            case "stop":\n                return\n            case ("get"',
        )
    ],
    4: [
        (
            "\n\nasync def main",
            "\n    @cast\n    def reset(self):\n        self.number = 0\n\n"
            "    def add(self, much):\n        self.number += much\n"
            "        return self.number\n\n\nasync def main",
        )
    ],
    5: [
        (
            '    await receive("slip")\n    exit("slipped")\n',
            '    match await receive():\n        case "slip":\n            exit("slipped")\n'
            '        case ("slip", why):\n            exit(why)\n',
        )
    ],
    6: [
        (
            "\n\nasync def main",
            '    if job == "for ever":\n        await receive()\n\n\nasync def main',
        ),
        (
            '    monitor("nobody")',
            '    pid, _ = await spawn_monitor(worker, "for ever")\n    exit(pid, "kill")\n'
            '    print("for ever ->", (await receive(Down)).reason)\n    monitor("nobody")',
        ),
    ],
    7: [
        (
            "\n\nasync def main",
            "\n    def left(self, sweets, children):\n        return sweets % children\n\n\n"
            "async def main",
        )
    ],
    8: [
        (
            '            case Request(caller, ("lookup"',
            '            case Request(caller, ("delete", key)) if key in values:\n'
            '                del values[key]\n                await reply(caller, "deleted")\n'
            '            case Request(caller, ("delete", key)):\n'
            '                await reply(caller, "unknown")\n'
            '            case Request(caller, ("lookup"',
        )
    ],
    9: [
        (
            "        await send(who, (word, node()))",
            '        if word == "enough":\n            return\n'
            "        await send(who, (word, node()))",
        )
    ],
    10: [
        (
            '    print("eaten in the end',
            '    other = await spawn(tortoise, mailbox=Mailbox(limit=5, policy="drop_old"))\n'
            "    for leaf in range(100):\n        await send(other, leaf)\n"
            '    print("the forgetful one ate", await ask(other, "how many?"))\n'
            '    print("eaten in the end',
        )
    ],
    11: [
        (
            "            case Down(ref=ref):",
            '            case Request(caller, ("give back", toy)):\n'
            "                ref = next(each for each in lent if lent[each] == toy)\n"
            "                del lent[ref]\n                demonitor(ref)\n"
            "                toys.append(toy)\n"
            '                await reply(caller, "thanks")\n            case Down(ref=ref):',
        ),
        ("from drupelet import receive", "from drupelet import demonitor, receive"),
    ],
    12: [
        ("crown = node()", "crown = len(seen) > 3 / 2 and node()"),
        (
            '    print(node(), "is king, and',
            '    still = "is king" if 1 + len(nodes()) > 3 / 2 else "is king no more"\n'
            '    print(node(), f"{still}, and',
        ),
    ],
}

# Each with the place of the check that finds it.
MISTAKES: list[tuple[int, int, Edit]] = [
    (1, 0, ("print(await receive())", "await receive()")),
    (1, 1, ('f"hello, {name}"', '"hello, process"')),
    (2, 0, ('receive(("parcel", ANY))', "receive()")),
    (2, 1, ('    await send(house, ("letter", "from Bob"))\n', "")),
    (3, 0, ("range(3)", "range(2)")),
    (3, 1, ("number += 1", "number = 3")),
    (4, 0, ("start(0)", "start(1)")),
    (4, 1, ("self.number = number", "self.number = 0")),
    (5, 0, ("    trap_exit(True)\n", "")),
    (5, 1, ("spawn_link(first))", "spawn(first))")),
    (6, 0, ('"I cannot do that"', '"no"')),
    (6, 1, ('exit("tired")', "return")),
    (7, 0, ('share", 12, 0)', 'share", 12, 5)')),
    (7, 1, ('send(boss, "ready")', 'send(boss, "reddy")')),
    (8, 0, ("store, node=there", "store")),
    (8, 1, ("values.get(key)", '"fine"')),
    (9, 0, ('    pg.join("choir")\n', "")),
    (9, 1, ('    await register("singer")\n', "")),
    (10, 0, ("mailbox=Mailbox(limit=5)", "mailbox=Mailbox(limit=50)")),
    (10, 1, ("                eaten += 1", "                eaten += 2")),
    (11, 0, ("                toys.append(lent.pop(ref))", "                lent.pop(ref)")),
    (11, 1, ("toys.pop()", "toys[-1]")),
    (12, 0, ("node() == min(seen)", "False")),
    (12, 1, ("(node(), crown", '("me", crown')),
]


def lesson(number: int) -> Lesson:
    return LESSONS[number - 1]


def edited(number: int, edits: list[Edit]) -> str:
    """The lesson's program, edited."""
    text = lesson(number).file.read_text()
    for old, new in edits:
        assert old in text, (number, old)
        text = text.replace(old, new, 1)
    return text


def perform(file: Path, lesson: Lesson, seed: int = 1) -> Performance:
    """The program of that file, with the checks of a lesson, in the simulator."""
    with Program(file).loaded() as program:
        return run_simulated(program, lesson.checks, lesson.exercises, seed=seed)


def perform_edited(number: int, edits: list[Edit], folder: Path) -> Performance:
    """A lesson's program, edited."""
    file = folder / "mine.py"
    file.write_text(edited(number, edits))
    return perform(file, lesson(number))


def assert_found(number: int, place: int, edit: Edit, folder: Path) -> None:
    """The mistake is found by the check at that place, and explained."""
    verdict = perform_edited(number, [edit], folder).verdicts[place]
    assert not verdict.ok
    assert verdict.expected
    assert verdict.seen
    assert verdict.hint


def assert_done(number: int, folder: Path) -> None:
    """The solved exercises are found done, and nothing else is broken."""
    found = perform_edited(number, SOLVED[number], folder)
    assert not found.problem
    assert [each for each in found.verdicts + found.exercises if not each.ok] == []
