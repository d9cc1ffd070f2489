"""Links and monitors between nodes: both sides agree, whatever crossed on the way."""

from __future__ import annotations

from itertools import permutations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.process import Down, Ref
from drupelet.process.table import Process
from tests.unit.process.wires import open_wires, settle, virtual

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["link", "unlink", "monitor", "demonitor", "exit", "end", "wait", "settle"]
        ),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(STEPS, st.integers(0, 5))
def test_both_sides_agree_whatever_crossed_on_the_way(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    """Once all has arrived: links are symmetric, and each monitor is there or was told once."""

    async def main() -> None:
        async with open_wires(seed) as wires:
            sides = await wires.attach("alice"), await wires.attach("bob")
            processes = [sides[n % 2].start(trio.sleep_forever, ()) for n in range(4)]
            await settle()
            for process in processes:
                process.trap_exit = True
            for one, other in ((0, 1), (2, 1), (0, 3)):
                sides[0].link(processes[one], processes[other].pid)
            await settle()
            refs: list[tuple[Process, Ref]] = []
            undone: set[Ref] = set()
            for kind, one, other in steps:
                me, pid = processes[one], processes[other].pid
                runtime = sides[one % 2]
                if kind == "wait":
                    await trio.lowlevel.checkpoint()
                elif kind == "settle":
                    await settle()
                elif not me.alive:
                    continue
                elif kind == "link":
                    runtime.link(me, pid)
                elif kind == "unlink":
                    runtime.unlink(me, pid)
                elif kind == "monitor":
                    refs.append((me, runtime.monitor(me, pid)))
                elif kind == "demonitor" and refs:
                    watcher, ref = refs[other % len(refs)]
                    if runtime.demonitor(me, ref):
                        undone.add(ref)
                elif kind == "exit":
                    runtime.send_exit(me.pid, pid, "kill")
                elif kind == "end":
                    runtime.exit_process(me, "over")
            await settle()
            alive = {process.pid: process for process in processes if process.alive}
            for process in alive.values():
                for pid in process.links or ():
                    assert pid in alive, "linked to the dead"
                    assert process.pid in (alive[pid].links or ()), "linked on one side only"
                for ref, pid in (process.monitors or {}).items():
                    assert ref in (alive[pid].watchers or ())
                for ref, pid in (process.watchers or {}).items():
                    assert ref in (alive[pid].monitors or ())
            for watcher, ref in refs:
                if watcher.pid in alive:
                    downs = [m for m in watcher.messages or () if isinstance(m, Down)]
                    told = [down.ref for down in downs].count(ref)
                    kept = ref in (watcher.monitors or ())
                    assert told + kept + (ref in undone) == 1
            for runtime in sides:
                assert not runtime.asks and not runtime.stream_error_count

    virtual(main)


CROSSING = ("a unlink", "a link", "b unlink", "b link")


@pytest.mark.parametrize(
    "order", sorted(set(permutations(CROSSING, 3)) | set(permutations(CROSSING)))
)
@pytest.mark.parametrize("linker", [0, 1])
def test_a_link_that_crosses_an_unlink_holds_on_both_sides(
    order: tuple[str, ...], linker: int
) -> None:
    """Reference: the Erlang Distribution Protocol's "link protocol" (OTP 23), with its acks."""

    async def main() -> None:
        async with open_wires() as wires:
            runtimes = await wires.attach("alice"), await wires.attach("bob")
            pair = [runtime.start(trio.sleep_forever, ()) for runtime in runtimes]
            runtimes[linker].link(pair[linker], pair[1 - linker].pid)
            await settle()
            for step in order:
                me = "ab".index(step[0])
                getattr(runtimes[me], step[2:])(pair[me], pair[1 - me].pid)
            await settle()
            linked = [bool(process.links) for process in pair]
            assert linked[0] == linked[1]
            last = {step[0]: step[2:] for step in order}  # what each did last
            if set(last.values()) == {"link"}:
                assert linked == [True, True]
            runtimes[0].exit_process(pair[0], "over")
            await settle()
            assert pair[1].alive == (not linked[1])
            assert not pair[0].link_marks and (linked[1] or not pair[1].links)

    virtual(main)
