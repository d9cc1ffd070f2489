"""How every runtime comes to know who is in a group, over wires that cut, heal and lose."""

from __future__ import annotations

import contextlib
import random
from collections import Counter

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.ladder import Cluster, Conditions, simulate
from drupelet.process import groups as groups_module
from drupelet.process.groups import PIECE, QUIET_S, RETRY_MAX_S, RETRY_S, Groups
from drupelet.process.kernel import NONODE
from drupelet.process.runtime import Runtime
from drupelet.process.table import Process
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid
from drupelet.wire.limits import GROUP_MEMBERS_MAX, GROUP_SCOPES_MAX, GROUPS_MAX
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import Signal, decode_signal, encode_signal
from tests.unit.process.wires import INCARNATION, Wires, open_wires, settle, virtual

CONVERGED_S = 1.0  # the bar
NODES = ("alice", "bob", "carol")


def of(runtime: Runtime) -> Groups:
    assert isinstance(runtime.groups, Groups)
    return runtime.groups


def start(runtime: Runtime) -> Process:
    return runtime.start(trio.sleep_forever, ())


def known(runtime: Runtime, scope: str = "pg") -> dict[object, Counter[Pid]]:
    found = of(runtime)
    return {group: Counter(found.members(scope, group)) for group in found.groups(scope)}


def truth(runtimes: list[Runtime], scope: str = "pg") -> dict[object, Counter[Pid]]:
    """What all of them own together."""
    members: dict[object, Counter[Pid]] = {}
    for runtime in runtimes:
        own = of(runtime)._own.groups
        for (each, group), pids in own.items():
            if each == scope:
                members.setdefault(group, Counter()).update(pids)
    return members


def check_tables(runtime: Runtime) -> None:
    """The counters beside the tables say the same as the tables."""
    groups = of(runtime)
    owners = [groups._own, *groups._others.values()]
    keys = {key for owner in owners for key in owner.groups}
    assert set(groups._by_key) == keys
    assert groups._scopes == Counter(scope for scope, _ in keys)
    assert groups._member_count == sum(
        count for owner in owners for members in owner.groups.values() for count in members.values()
    )
    for key, found in groups._by_key.items():
        assert found == [each for each in owners if key in each.groups] or len(found) > 1
        assert {id(each) for each in found} == {id(each) for each in owners if key in each.groups}
    numbers = {pid.number for members in groups._own.groups.values() for pid in members}
    assert set(groups._joined) == numbers


def test_every_runtime_knows_of_a_change_at_once() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            runtimes = [await wires.attach(node) for node in (*NODES, "alice")]
            members = [start(each) for each in runtimes]
            for runtime, member in zip(runtimes, members, strict=True):
                of(runtime).join("pg", "g", [member.pid])
            await settle()  # no time has passed
            for runtime in runtimes:
                assert known(runtime) == {"g": Counter(each.pid for each in members)}
                assert of(runtime).groups("pg", local=True) == ["g"]
            assert of(runtimes[1]).members("pg", "g")[0] == members[1].pid  # one's own first
            assert of(runtimes[0]).leave("pg", "g", [members[0].pid])
            runtimes[1].exit_process(members[1], "killed")
            await settle()
            for runtime in runtimes:
                assert known(runtime) == {"g": Counter(each.pid for each in members[2:])}
            wires.kill(runtimes[2])
            await settle()
            assert known(runtimes[0]) == {"g": Counter([members[3].pid])}

    virtual(main)


def test_one_that_comes_later_is_told_everything() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice = await wires.attach("alice")
            many = [start(alice) for _ in range(PIECE + 1)]
            of(alice).join("pg", "many", [each.pid for each in many])
            of(alice).join("other", ("a", 1), [many[0].pid, many[0].pid])
            bob = await wires.attach("bob")
            await settle()
            assert known(bob) == {"many": Counter(each.pid for each in many)}
            assert known(bob, "other") == {("a", 1): Counter({many[0].pid: 2})}
            check_tables(bob)

    virtual(main)


def test_a_change_of_many_members_goes_in_pieces() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            await settle()
            pids = [start(alice).pid for _ in range(2 * PIECE + 1)]
            before = wires.routed.count(wire.GROUP)
            of(alice).join("pg", "g", pids)
            await settle()
            assert wires.routed.count(wire.GROUP) - before == 3
            assert known(bob) == {"g": Counter(pids)}
            assert of(alice).leave("pg", "g", pids)
            await trio.sleep(QUIET_S)
            await settle()
            assert known(bob) == {}
            assert wires.routed.count(wire.GROUP) - before == 7  # and one "at"

    virtual(main)


def test_a_partition_hides_and_a_heal_shows() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            runtimes = [await wires.attach(node) for node in NODES]
            members = [start(each).pid for each in runtimes]
            for runtime, pid in zip(runtimes, members, strict=True):
                of(runtime).join("pg", "g", [pid])
            await settle()
            wires.cut("alice", "bob")
            await settle()
            assert known(runtimes[0]) == {"g": Counter([members[0], members[2]])}
            assert known(runtimes[1]) == {"g": Counter(members[1:])}
            assert known(runtimes[2]) == {"g": Counter(members)}
            of(runtimes[0]).leave("pg", "g", [members[0]])  # meanwhile
            of(runtimes[0]).join("pg", "new", [members[0]])
            await settle()
            wires.heal("alice", "bob")
            await settle()  # no time has passed
            for runtime in runtimes:
                assert known(runtime) == truth(runtimes) == {
                    "g": Counter(members[1:]),
                    "new": Counter([members[0]]),
                }  # fmt: skip

    virtual(main)


@pytest.mark.parametrize("verb", ["state", "join", "leave", "at", "again"])
def test_a_lost_signal_is_made_good_within_a_second(verb: str) -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice = await wires.attach("alice")
            pid = start(alice).pid
            of(alice).join("pg", "before", [pid])
            lost: list[str] = []

            def lose(signal: Signal) -> bool:
                if signal.kind != wire.GROUP or signal.from_node != "alice":
                    return False
                word = loads(signal.body)[0]
                if word == verb and not lost:
                    lost.append(word)
                    return True
                return False

            wires.lose = lose
            bob = await wires.attach("bob")
            await settle()
            of(alice).join("pg", "g", [pid])
            of(alice).join("pg", "h", [pid])
            of(alice).leave("pg", "g", [pid])
            if verb == "again":  # only who missed something asks
                of(bob).receive(group_signal(bob, alice, ["at", 99]))
                wires.lose = lambda s: lose(s) or (not lost and s.kind == wire.GROUP)
                of(alice)._ask_again(bob.pid, of(alice)._others[bob.pid])
            await trio.sleep(CONVERGED_S)
            await settle()
            assert lost == [verb]
            assert known(bob) == {"before": Counter([pid]), "h": Counter([pid])}
            check_tables(bob)

    virtual(main)


def group_signal(to: Runtime, sender: Runtime, body: object) -> Signal:
    own = encode_signal(wire.GROUP, to.pid, sender.pid, 0, dumps(body))
    return decode_signal(own)[0]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_all_agree_within_a_second(seed: int) -> None:
    """Joins, leaves, ends, kills, cuts, heals and lost signals in any order."""
    rng = random.Random(seed)
    happened: Counter[str] = Counter()

    async def main() -> None:
        async with open_wires(seed) as wires:
            runtimes = [await wires.attach(node) for node in (*NODES, "bob")]
            processes: dict[Runtime, list[Process]] = {
                each: [start(each) for _ in range(3)] for each in runtimes
            }
            loss, lossy = [0.0], seed % 2
            wires.lose = lambda s: s.kind == wire.GROUP and rng.random() < loss[0]
            for _ in range(60):
                await act(wires, runtimes, processes)
                loss[0] = lossy * rng.choice((0.0, 0.3))
                await trio.sleep(rng.choice((0, 0.01, 0.2, 0.5)))
            loss[0] = 0.0
            for one, other in (("alice", "bob"), ("bob", "carol"), ("alice", "carol")):
                if wires.is_cut(one, other):
                    wires.heal(one, other)
            if lossy:  # a change and its "at" may both be lost; then the next change tells
                assert wires.lost
                for runtime in runtimes:
                    of(runtime).join("pg", "last", [start(runtime).pid])
                await trio.sleep(RETRY_MAX_S)
            await trio.sleep(CONVERGED_S)
            for runtime in runtimes:
                assert known(runtime) == truth(runtimes)
                check_tables(runtime)

    async def act(
        wires: Wires, runtimes: list[Runtime], processes: dict[Runtime, list[Process]]
    ) -> None:
        runtime = rng.choice(runtimes)
        process = rng.choice(processes[runtime])
        group = rng.choice("abc")
        one, other = rng.sample(NODES, 2)
        what = rng.choice(["join"] * 4 + ["leave"] * 3 + ["end", "kill", "cut", "heal"])
        if what == "join":
            of(runtime).join("pg", group, [process.pid] * rng.choice((1, 2)))
        elif what == "leave":
            of(runtime).leave("pg", group, [process.pid])
        elif what == "end":
            runtime.exit_process(process, "boom")
            processes[runtime].remove(process)
            processes[runtime].append(start(runtime))
        elif what == "kill" and len(runtimes) > 3 and runtime.node == "bob":
            wires.kill(runtime)
            runtimes.remove(runtime)
        elif what == "cut" and not wires.is_cut(one, other):
            wires.cut(one, other)
        elif what == "heal" and wires.is_cut(one, other):
            wires.heal(one, other)
        else:
            return
        happened[what] += 1

    virtual(main)
    assert happened["join"] and happened["leave"]


def test_the_next_change_shows_a_gap_at_once() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            await settle()
            pid = start(alice).pid
            wires.lose = lambda signal: signal.kind == wire.GROUP
            of(alice).join("pg", "g", [pid])
            await settle()
            wires.lose = lambda signal: False
            of(alice).join("pg", "h", [pid])
            await settle()  # no time has passed
            assert wires.lost == 1
            assert known(bob) == {"g": Counter([pid]), "h": Counter([pid])}

    virtual(main)


def test_a_state_with_a_missing_piece_is_asked_for_again() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice = await wires.attach("alice")
            pids = [start(alice).pid for _ in range(3 * PIECE)]
            of(alice).join("pg", "g", pids)
            lost: list[int] = []

            def lose(signal: Signal) -> bool:
                if signal.kind != wire.GROUP:
                    return False
                match loads(signal.body):
                    case ["state", _, 1, False, _] if not lost:
                        lost.append(1)
                        return True
                return False

            wires.lose = lose
            bob = await wires.attach("bob")
            await settle()
            assert (lost, known(bob)) == ([1], {})  # not a part of it
            of(alice).leave("pg", "g", pids[:1])  # nor what comes in between
            await settle()
            assert known(bob) == {}
            await trio.sleep(RETRY_S)
            await settle()
            assert known(bob) == {"g": Counter(pids[1:])}

    virtual(main)


def test_nothing_is_told_where_the_way_is_full_before_it_is_free() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            await settle()
            end = wires.nodes["alice"][0]
            end.congested = True
            wires.lose = lambda s: s.kind == wire.GROUP and end.congested  # it was refused
            pid = start(alice).pid
            of(alice).join("pg", "g", [pid])
            await trio.sleep(60)
            assert (wires.lost, known(bob)) == (1, {})
            end.congested = False
            await trio.sleep(CONVERGED_S)
            assert known(bob) == {"g": Counter([pid])}

    virtual(main)


def test_a_program_that_joins_its_node_later_tells_of_those_whom_it_had() -> None:
    async def main() -> None:
        async with open_wires() as wires, trio.open_nursery() as nursery:
            bob = await wires.attach("bob")
            alone = Runtime(nursery)
            nursery.start_soon(alone.run)
            early = start(alone)
            assert early.pid.node == NONODE
            of(alone).join("pg", "g", [early.pid])
            joined = await wires.attach("alice")
            # the runtime that the wires attached takes the place of the one that was alone
            sent: list[object] = []
            alone.transmit = lambda signal: sent.append(  # type: ignore[method-assign]
                loads(decode_signal(signal)[0].body)
            )
            alone.attached("alice", INCARNATION, 9)
            of(alone).runtime_up(bob.pid)
            late = start(alone)
            of(alone).join("pg", "g", [early.pid, late.pid])
            of(alone).leave("pg", "g", [early.pid])
            assert sent == [  # on the wire they have pids of the node: outside.py
                ["state", 1, 0, True, [["pg", "g", [early.pid]]]],
                ["join", 2, "pg", "g", [early.pid, late.pid]],
                ["leave", 3, "pg", "g", [early.pid]],
            ]
            assert alone.outside is not None
            assert early.pid in alone.outside and late.pid not in alone.outside
            assert Counter(of(alone).members("pg", "g")) == Counter([early.pid, late.pid])
            assert joined is not alone
            nursery.cancel_scope.cancel()

    virtual(main)


# -- strangers' words, and maxima


def test_nobody_speaks_for_another() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            await settle()
            own, others = start(alice).pid, start(bob).pid
            for body in (
                ["join", 1, "pg", "g", [others]],
                ["join", 1, "pg", "g", [own, 5]],
                ["state", 0, 0, True, [["pg", "g", [others]]]],
                ["state", 0, 0, True, ["g"]],
                ["join", 1, "no name", "g", [own]],
                ["join", 1, "pg", bytes(300), [own]],
                ["join", 1, "pg", [1], [own]],
                ["leave", "1", "pg", "g", [own]],
                ["what"],
                5,
            ):
                signal = group_signal(bob, alice, body)
                of(bob)._others[alice.pid].sequence = 0
                with pytest.raises(RemoteProtocolError):
                    of(bob).receive(signal)
            assert known(bob) == {}
            check_tables(bob)

    virtual(main)


WORDS = st.sampled_from(["state", "join", "leave", "at", "again", "what"])
NUMBERS = st.integers(-2, 3) | st.booleans()
PIDS = st.integers(1, 4).map(lambda number: Pid("alice", INCARNATION, (1 << 40) + number))
NAMES = st.sampled_from(["pg", "other", "no name", "", 1, 1.0, ("a", 1), float("nan"), None, ["g"]])
THINGS = st.recursive(
    WORDS | NUMBERS | PIDS | NAMES | st.just(Pid("bob", INCARNATION, 1 << 41)),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)
CHANGES = st.tuples(WORDS, NUMBERS, NAMES, NAMES, st.lists(PIDS, max_size=4)).map(list)
STATES = st.tuples(
    st.just("state"),
    NUMBERS,
    NUMBERS,
    st.booleans(),
    st.lists(st.tuples(NAMES, NAMES, st.lists(PIDS, max_size=4)).map(list), max_size=3),
).map(list)


@given(bodies=st.lists(THINGS | CHANGES | STATES, max_size=12))
def test_whatever_another_says_the_tables_agree(bodies: list[object]) -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            await settle()
            for body in bodies:
                with contextlib.suppress(RemoteProtocolError):
                    of(bob).receive(group_signal(bob, alice, body))
                check_tables(bob)
            wires.kill(alice)
            await settle()
            check_tables(bob)
            assert of(bob)._by_key == {}

    virtual(main)


def test_who_is_not_there_says_nothing() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            await settle()
            pid = start(alice).pid
            wires.cut("alice", "bob")
            await settle()
            of(bob).receive(group_signal(bob, alice, ["join", 1, "pg", "g", [pid]]))
            assert of(bob).refused_count == 1
            assert known(bob) == {}

    virtual(main)


def test_the_maxima_here(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_wires() as wires:
            groups = of(await wires.attach("alice"))
            pid = start(groups._runtime).pid
            assert (GROUP_SCOPES_MAX, GROUPS_MAX, GROUP_MEMBERS_MAX) == (64, 16_384, 65_536)
            for number in range(GROUP_SCOPES_MAX):
                groups.join(f"scope{number}", "g", [pid])
            with pytest.raises(ValueError, match="at most 64 scopes"):
                groups.join("one_more", "g", [pid])
            for number in range(GROUP_SCOPES_MAX, GROUPS_MAX):
                groups.join("scope0", number, [pid])
            with pytest.raises(ValueError, match="16,384 groups"):
                groups.join("scope0", "one more", [pid])
            groups.join("scope0", "g", [pid] * (GROUP_MEMBERS_MAX - GROUPS_MAX))
            with pytest.raises(ValueError, match="65,536 members"):
                groups.join("scope0", "g", [pid])
            groups.leave("scope0", "g", [pid])
            groups.join("scope0", "g", [pid])
            check_tables(groups._runtime)

    virtual(main)


def test_the_maxima_of_what_comes_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing above them is kept: neither of a change nor of a state, nor while it is put together.

    The numbers are small here: at their real size the state alone would be 3 MB.
    """
    monkeypatch.setattr(groups_module, "GROUPS_MAX", 4)
    monkeypatch.setattr(groups_module, "GROUP_MEMBERS_MAX", 6)

    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            await settle()
            groups, pid = of(bob), start(alice).pid
            for number in range(1, 6):
                groups.receive(group_signal(bob, alice, ["join", number, "pg", number, [pid]]))
            assert (len(known(bob)), groups.refused_count) == (4, 1)
            groups.receive(group_signal(bob, alice, ["join", 6, "pg", 1, [pid, pid, pid]]))
            assert groups.refused_count == 2
            groups.receive(group_signal(bob, alice, ["join", 7, "pg", 1, [pid, pid]]))
            assert (groups._member_count, groups.refused_count) == (6, 2)
            groups.receive(group_signal(bob, alice, ["leave", 8, "pg", 1, [pid, pid]]))

            entries = [["pg", number, [pid]] for number in range(5)]
            groups.receive(group_signal(bob, alice, ["state", 9, 0, False, entries]))
            owner = groups._others[alice.pid]
            assert (len(owner.pending), groups.refused_count) == (4, 3)
            entries = [["pg", 0, [pid, pid]], ["pg", 0, [pid]]]
            groups.receive(group_signal(bob, alice, ["state", 9, 1, False, entries]))
            assert (owner.pending_count, groups.refused_count) == (6, 4)
            groups.receive(group_signal(bob, alice, ["state", 9, 2, True, []]))
            assert known(bob) == {0: Counter({pid: 3}), **{n: Counter([pid]) for n in (1, 2, 3)}}
            check_tables(bob)

    virtual(main)


# -- with the real daemons' routers and lines, and the time that links take (ladder/)


@pytest.mark.parametrize("seed", range(4))
def test_a_cluster_agrees_within_a_second_of_a_heal(seed: int) -> None:
    """Five nodes are split for a minute, in which everybody joins and leaves. MODEL-8."""
    names = ("alice", "bob", "carol", "dave", "erin")
    conditions = Conditions(latency_s=0.02, jitter_s=0.01)  # a bad home network

    async def main(cluster: Cluster) -> None:
        runtimes = {name: runtime_of(cluster, name) for name in names}
        for runtime in runtimes.values():
            of(runtime).join("pg", "g", [start(runtime).pid])
        await agreed(list(runtimes.values()))
        cluster.split(names[:2])
        await trio.sleep(60)
        for runtime in runtimes.values():
            of(runtime).join("pg", "g", [start(runtime).pid])
            of(runtime).leave("pg", "g", of(runtime).members("pg", "g")[:1])
        near, far = [runtimes[n] for n in names[:2]], [runtimes[n] for n in names[2:]]
        assert max(await agreed(near), await agreed(far)) <= CONVERGED_S
        cluster.heal()
        await cluster.wait_connected()
        assert await agreed(list(runtimes.values())) <= CONVERGED_S

    simulate(main, names, seed=seed, conditions=conditions)


def runtime_of(cluster: Cluster, name: str) -> Runtime:
    [attachment] = cluster.daemon(name).attachments.values()
    return attachment.runtime


async def agreed(runtimes: list[Runtime]) -> float:
    """Until all of them know the same; the seconds that took, to 10 ms."""
    started = trio.current_time()
    while any(known(each) != truth(runtimes) for each in runtimes):
        await trio.sleep(0.01)
        assert trio.current_time() - started < 2 * CONVERGED_S
    return trio.current_time() - started
