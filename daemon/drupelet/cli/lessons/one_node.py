"""Lessons 1 to 7: what must hold of processes of one node, and the exercises' checks.

Each check runs as a process of the node where `main` ran; `run.program.greeter` is the learner's
function. It talks to fresh processes of its own, so that it does not matter what `main` left.
"""

from __future__ import annotations

from drupelet.cli.lessons.checks import Check, Run, Wrong, answer, equal, prints
from drupelet.process import (
    ANY,
    Down,
    Exit,
    exit,
    is_process_alive,
    monitor,
    self,
    send,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
)
from drupelet.process.gen_server import GenServer

# -- 1: hello


async def _greets(run: Run) -> None:
    pid = await spawn(run.program.greeter)
    await send(pid, ("Ada", self()))
    equal("for the name Ada", "hello, Ada", await answer("as a greeting for Ada"))


async def _greets_again(run: Run) -> None:
    pid = await spawn(run.program.greeter)
    for name in ("Ada", "Bob", "Eve"):
        await send(pid, (name, self()))
        question = f"for the name {name}, from one and the same greeter"
        equal(question, f"hello, {name}", await answer(question))


HELLO = (
    prints("hello, process", hint="main prints what receive() gives it"),
    Check(
        what="the greeter greets whoever writes to it",
        test=_greets,
        hint='it gets (name, sender) and sends f"hello, {name}" to the sender',
    ),
)
HELLO_EXERCISES = (
    Check(
        what="one greeter greets three people, one after the other",
        test=_greets_again,
        hint="put `while True:` round what the greeter does",
    ),
)

# -- 2: the mailbox


async def _brings(run: Run) -> None:
    await spawn(run.program.postman, self())
    for kind in ("parcel", "letter", "letter"):
        await answer("from the postman", (kind, ANY))


async def _parcels_first(run: Run) -> None:
    order = [_place(run, words) for words in ("a book", "a ball", "from Ada", "from Bob")]
    if -1 in order or order != sorted(order):
        seen = " | ".join(run.printed)
        raise Wrong("a line each with: a book, a ball, from Ada, from Bob; in this order", seen)


def _place(run: Run, words: str) -> int:
    return next((place for place, line in enumerate(run.printed) if words in line), -1)


MAILBOX = (
    prints(
        "first the parcel: a book",
        "then a letter: from Ada",
        "then a letter: from Bob",
        "the mailbox is empty",
        what="the parcel comes first, then the letters in their order, then nothing",
        hint='receive(("parcel", ANY)) takes the parcel; receive(timeout=1) the oldest message',
    ),
    Check(
        what="the postman brings two letters and a parcel",
        test=_brings,
        hint='each is a pair: ("letter", "from Ada")',
    ),
)
MAILBOX_EXERCISES = (
    Check(
        what="two parcels, both before the first letter",
        test=_parcels_first,
        hint='the postman sends ("parcel", "a ball") last; main calls receive(("parcel", ANY)) '
        "twice before its loop",
    ),
)

# -- 3: a server by hand


async def _counts(run: Run) -> None:
    pid = await spawn(run.program.counter, 10)
    await send(pid, "more")
    await send(pid, "more")
    await send(pid, ("get", self()))
    seen = await answer("as an answer to get")
    equal("after counter(10) and two times more", ("number", 12), seen)


async def _counts_down(run: Run) -> None:
    pid = await spawn(run.program.counter, 10)
    for word in ("less", "less", "more", ("get", self())):
        await send(pid, word)
    seen = await answer("as an answer to get")
    equal("after counter(10), less, less, more", ("number", 9), seen)


async def _stops(run: Run) -> None:
    pid, _ = await spawn_monitor(run.program.counter, 0)
    await send(pid, "stop")
    down = await answer("when the counter got stop and ends", Down)
    equal("as the reason of its end", "normal", down.reason)


COUNTER = (
    prints("('number', 3)", hint='three times "more" from 0 on; who asks with "get" is told'),
    Check(what="it counts from any number", test=_counts, hint="number begins as the argument"),
)
COUNTER_EXERCISES = (
    Check(
        what='it understands "less"', test=_counts_down, hint='a `case "less":` with number -= 1'
    ),
    Check(
        what='it ends when it gets "stop"',
        test=_stops,
        hint="return leaves the function, and its process ends",
    ),
)

# -- 4: GenServer


async def _serves(run: Run) -> None:
    pid = await run.program.Counter.start(10)
    await GenServer.cast(pid, "more")
    equal("after start(10) and one more", 11, await GenServer.call(pid, "get"))


async def _adds(run: Run) -> None:
    pid = await run.program.Counter.start(10)
    equal("of add(5) after start(10)", 15, await GenServer.call(pid, "add", 5))
    equal("of get after that", 15, await GenServer.call(pid, "get"))


async def _resets(run: Run) -> None:
    pid = await run.program.Counter.start(10)
    await GenServer.cast(pid, "reset")
    equal("of get after a cast of reset", 0, await GenServer.call(pid, "get"))


GENSERVER = (
    prints("number 3", hint="three casts of more, then a call of get"),
    Check(what="it counts from any number", test=_serves, hint="init keeps what start was given"),
)
GENSERVER_EXERCISES = (
    Check(
        what="the method add(much) adds, and its answer is the new number",
        test=_adds,
        hint="def add(self, much): change self.number, then return it",
    ),
    Check(
        what="the cast reset sets the number to 0",
        test=_resets,
        hint="as `more`, with @cast above it",
    ),
)

# -- 5: links


async def _both_fall(run: Run) -> None:
    second, _ = await spawn_monitor(run.program.second, self())
    first = await answer("with the pid of the first, from the second")
    await send(first, "slip")
    down = await answer("when the first has slipped", Down)
    equal("as the end of the second", (second, "slipped"), (down.pid, down.reason))


async def _says_why(run: Run) -> None:
    trap_exit(True)
    await spawn_link(run.program.second, self())
    first = await answer("with the pid of the first, from the second")
    await send(first, ("slip", "on ice"))
    seen = await answer('after ("slip", "on ice")', Exit)
    equal('as the reason after ("slip", "on ice")', "on ice", seen.reason)


LINKS = (
    prints(
        "on my rope fell: the second",
        "because somebody slipped",
        what="the fall of the first reaches main through the second",
        hint="main is linked to the second, the second to the first",
    ),
    Check(
        what="the second falls when the first does",
        test=_both_fall,
        hint="spawn_link, not spawn; and the second must not call trap_exit",
    ),
)
LINKS_EXERCISES = (
    Check(
        what='("slip", why) ends the first with the reason why; "slip" alone still works',
        test=_says_why,
        hint='match await receive(): with case "slip": and case ("slip", why):',
    ),
)

# -- 6: monitors


async def _tells_why(run: Run) -> None:
    for job, reason in (("easy", "normal"), ("too late", "tired")):
        await spawn_monitor(run.program.worker, job)
        down = await answer(f"when worker({job!r}) ends", Down)
        equal(f"as the reason of worker({job!r})", reason, down.reason)


async def _can_be_killed(run: Run) -> None:
    pid = await spawn(run.program.worker, "for ever")
    monitor(pid)
    exit(pid, "kill")
    down = await answer('after exit(pid, "kill")', Down)
    equal('as the reason after exit(pid, "kill")', "killed", down.reason)
    await prints("for ever -> killed", hint="").test(run)


MONITORS = (
    prints(
        "easy -> normal",
        "too hard -> ('ValueError', 'I cannot do that')",
        "too late -> tired",
        "nobody -> noproc",
        what="each end is told with its reason",
        hint="each Down has a reason: normal, an exception, what exit() was given, noproc",
    ),
    Check(
        what="the worker ends as its job says",
        test=_tells_why,
        hint="an easy job just returns",
    ),
)
MONITORS_EXERCISES = (
    Check(
        what='a job "for ever" waits, until main ends it with exit(pid, "kill")',
        test=_can_be_killed,
        hint='in worker: if job == "for ever": await receive(); main prints `for ever -> killed`',
    ),
)

# -- 7: supervisors


async def _shares(run: Run) -> None:
    pid = await run.program.Calculator.start(self())
    equal("from init", "ready", await answer("from init"))
    equal("of share(12, 4)", 3, await GenServer.call(pid, "share", 12, 4))


async def _keeps_rest(run: Run) -> None:
    pid = await run.program.Calculator.start(self())
    equal("of left(14, 4)", 2, await GenServer.call(pid, "left", 14, 4))
    if not is_process_alive(pid):
        raise Wrong("a calculator that lives on", "that it has ended")


SUPERVISOR = (
    prints(
        "12 sweets for 4: 3",
        "12 sweets for 0: ZeroDivisionError",
        "12 sweets for 3: 4",
        what="it works, crashes, and works again",
        hint="the supervisor starts a new calculator, which says ready before it is asked",
    ),
    Check(
        what="a calculator says ready and shares",
        test=_shares,
        hint='init sends "ready" to the boss; share returns sweets // children',
    ),
)
SUPERVISOR_EXERCISES = (
    Check(
        what="the method left(sweets, children) says how many sweets are left over",
        test=_keeps_rest,
        hint="the operator for the rest of a division is %",
    ),
)
