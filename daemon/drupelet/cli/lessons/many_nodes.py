"""Lessons 8 to 12: what must hold of processes on several nodes, and the exercises' checks.

The checks of a lesson run on real nodes too, so they break nothing; those of the exercises only in
the simulator. Each runs as a process of the node where `main` ran.
"""

from __future__ import annotations

from drupelet.cli.lessons.checks import Check, Run, Wrong, answer, equal, prints
from drupelet.process import Mailbox, ask, pg, self, send, spawn

# -- 8: two nodes


async def _stores(run: Run) -> None:
    pid = await spawn(run.program.store, node=run.there)
    equal("as the node of the new process", run.there, pid.node)
    await ask(pid, ("store", "tea", ["milk", 2]))
    seen = await ask(pid, ("lookup", "tea"))
    equal('of ("lookup", "tea")', ["milk", 2], seen)
    seen = await ask(pid, ("lookup", "coffee"))
    equal("for a key that nobody stored", None, seen)


async def _deletes(run: Run) -> None:
    pid = await spawn(run.program.store, node=run.there)
    await ask(pid, ("store", "tea", "hot"))
    seen = await ask(pid, ("delete", "tea"))
    equal('of ("delete", "tea")', "deleted", seen)
    seen = await ask(pid, ("lookup", "tea"))
    equal("of lookup after that", None, seen)
    seen = await ask(pid, ("delete", "tea"))
    equal("of a second delete", "unknown", seen)


TWO_NODES = (
    prints(
        "{here} asks {there} to keep the weather: stored",
        "{here} asks {there} for the weather: fine",
        "the process lives on {there}",
        what="what is stored on the other node is found there",
        hint="spawn(store, node=there) starts it on the other node; ask waits for the reply",
    ),
    Check(
        what="the store keeps any value, and says None for an unknown key",
        test=_stores,
        hint="values.get(key) is None for a key that is not in it",
    ),
)
TWO_NODES_EXERCISES = (
    Check(
        what='("delete", key) is answered with "deleted" or "unknown"',
        test=_deletes,
        hint="values.pop(key, None) takes a key out; look first whether it is in there",
    ),
)

# -- 9: names and groups


async def _sings(run: Run) -> None:
    await send(("singer", run.there), ("solo", self()))
    question = f'from ("singer", "{run.there}")'
    equal(question, ("solo", run.there), await answer(question))


async def _leaves(run: Run) -> None:
    ref, members = pg.monitor("choir")
    for pid in members:
        await send(pid, ("enough", self()))
    for _ in members:
        await answer("when a singer leaves", lambda message: message[:2] == (ref, "leave"))
    equal("as members of the choir", [], pg.get_members("choir"))


NAMES = (
    prints(
        "solo {there}",
        "('la', ...) ('la', ...) ('la', ...)",
        what="one sings alone, then all three",
        hint='("singer", node) is one process; pg.get_members("choir") are all of them',
    ),
    Check(
        what="the singer can be called by its name, from another node",
        test=_sings,
        hint='register("singer") comes before the loop',
    ),
)
NAMES_EXERCISES = (
    Check(
        what='who hears "enough" leaves the choir',
        test=_leaves,
        hint='if word == "enough": return; who ends has left every group',
    ),
)

# -- 10: a slow receiver


async def _is_slow(run: Run) -> None:
    pid = await spawn(run.program.tortoise, mailbox=Mailbox(limit=2))
    for leaf in range(4):
        await send(pid, leaf)
    equal("leaves eaten, of 4 that were sent", 4, await ask(pid, "how many?"))


async def _forgets(run: Run) -> None:
    await prints("the forgetful one ate ...", hint="").test(run)
    line = next(line for line in run.printed if line.startswith("the forgetful one ate "))
    number = line.split()[4]
    if not number.isdigit() or int(number) > 6:
        raise Wrong("5 leaves or 6, of 100 that were sent", number)


SLOW = (
    prints(
        "the mailbox is full after 5 leaves",
        "send waited: True",
        "eaten in the end: 10",
        what="send waits for room, and nothing is lost",
        hint="the limit is 5; send_nowait raises MailboxFull, send waits",
    ),
    Check(
        what="a tortoise eats all that it was sent",
        test=_is_slow,
        hint="it counts what is no Request",
    ),
)
SLOW_EXERCISES = (
    Check(
        what="a second tortoise forgets: of 100 leaves it eats the newest 5",
        test=_forgets,
        hint='Mailbox(limit=5, policy="drop_old"), then send never waits; print what it answers '
        "as `the forgetful one ate 5`",
    ),
)

# -- 11: a node dies


async def _lends_once(run: Run) -> None:
    box = await spawn(run.program.toy_box, ["a car"])
    equal('of the first "borrow"', "a car", await ask(box, "borrow"))
    equal('of the second "borrow"', "nothing", await ask(box, "borrow"))


async def _takes_back(run: Run) -> None:
    box = await spawn(run.program.toy_box, ["a car"])
    await ask(box, "borrow")
    seen = await ask(box, ("give back", "a car"))
    equal('of ("give back", "a car")', "thanks", seen)
    equal('of "borrow" after that', "a car", await ask(box, "borrow"))


NODE_DIES = (
    prints(
        "a child on {there} gets a ball",
        "I get nothing",
        "{there} is down",
        "I get a ball",
        what="what a dead node had borrowed is free again",
        hint="the box monitors who borrows; its Down says that the toy is free",
    ),
    Check(
        what="the box lends each toy once",
        test=_lends_once,
        hint="toys.pop() takes it out of the box",
    ),
)
NODE_DIES_EXERCISES = (
    Check(
        what='("give back", toy) is answered with "thanks", and the toy is free again',
        test=_takes_back,
        hint="toys.append(toy); and demonitor the borrower: find its ref in lent",
    ),
)

# -- 12: split brain


async def _is_not_crowned(run: Run) -> None:
    knight = await spawn(run.program.knight, self(), self(), node=run.there)
    await answer("from the knight", "ready")
    await run.stage.cut(run.there)
    await run.stage.heal()
    _, crown, seen = await ask(knight, "are you king?")
    if crown:
        raise Wrong(
            f"that {run.there} is no king: it was alone, one of three", f"a king who saw {seen}"
        )


async def _abdicates(run: Run) -> None:
    await prints("{here} is king no more...", "{there} is king, and saw...", hint="").test(run)


async def _answers(run: Run) -> None:
    pid = await spawn(list)  # it ends at once
    knight = await spawn(run.program.knight, pid, self(), node=run.there)
    await answer("from the knight", "ready")
    name, _, seen = await ask(knight, "are you king?")
    equal("as the knight's node", run.there, name)
    if run.there not in seen:
        raise Wrong(f"{run.there} among those that it saw", repr(seen))


SPLIT_BRAIN = (
    prints(
        "{here} is ..., and has lost {there} {third}",
        "{there} is king, and saw ...",
        "{third} is no king, and saw ...",
        what="both sides go on, and one of the other side is crowned too",
        hint="a knight's Down comes when its side has lost the king's",
    ),
    Check(
        what="a knight whose king is gone says who it is and whom it saw",
        test=_answers,
        hint="it waits for Down, then answers every Request",
    ),
)
SPLIT_BRAIN_EXERCISES = (
    Check(
        what="a knight that sees fewer than half of the three nodes is not crowned",
        test=_is_not_crowned,
        hint="crown = len(seen) > 3 / 2 and node() == min(seen)",
    ),
    Check(
        what="the old king looks too: it prints that it is king no more",
        test=_abdicates,
        hint="after the cut main sees 1 + len(nodes()) nodes; print "
        "`gandalf is king no more, and has lost bilbo frodo` when that is fewer than half of 3",
    ),
)
