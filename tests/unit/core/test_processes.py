"""Who is there: runtimes and nodes that come and go; and that every signal has a fate."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.core import processes
from drupelet.core.lines import ACK_S
from drupelet.core.processes import FAILED_MAX, PEERS_MAX, Answered, ProcessRouter
from drupelet.errors import NoConnection, RemoteError, RemoteProtocolError
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid
from drupelet.wire.limits import PROCESS_NAME_BYTES_MAX, RUNTIME_MODULES_MAX, RUNTIMES_MAX
from drupelet.wire.messages.processes import (
    ASK,
    DOWN,
    EXIT,
    GONE,
    LINK,
    MONITOR,
    REPLY,
    SEND,
    SERIAL_SHIFT,
    SPAWN,
    SPAWNED,
    UP,
    encode_signal,
)
from tests.unit.core.routers import OneRuntime, World


def news(runtime: OneRuntime) -> list[tuple[int, Pid, object]]:
    return [
        (each.kind, each.sender, loads(each.body) if each.body else None)
        for each in runtime.inbox
        if each.kind in (UP, GONE)
    ]


def node_pid(world: World, name: str) -> Pid:
    return Pid(name, world.incarnation(name), 0)


def test_who_attaches_hears_of_all_and_all_hear_of_it() -> None:
    world = World("alice", "bob")
    a = world.attach("alice", "kvs")
    b = world.attach("bob", "ring")
    assert (news(a), news(b)) == ([], [])
    world.join("alice", "bob")
    assert news(a) == [(UP, node_pid(world, "bob"), None), (UP, b.pid, "ring")]
    assert news(b) == [(UP, node_pid(world, "alice"), None), (UP, a.pid, "kvs")]
    a.clear()
    b.clear()
    late = world.attach("alice", "late")
    world.settle()
    assert news(late) == [
        (UP, a.pid, "kvs"),
        (UP, node_pid(world, "bob"), None),
        (UP, b.pid, "ring"),
    ]
    assert news(a) == news(b) == [(UP, late.pid, "late")]
    assert world.routers["alice"].nodes() == ["bob"]


def test_serials_are_never_given_twice() -> None:
    world = World("alice")
    first = world.attach("alice")
    world.detach(first)
    assert world.attach("alice").serial == first.serial + 1


def test_the_end_of_a_runtime_is_told_after_everything_that_it_sent() -> None:
    world = World("alice", "bob")
    a, near, b = world.attach("alice"), world.attach("alice"), world.attach("bob")
    world.join("alice", "bob")
    request = dumps(["register", "kvs", a.process(1)])
    world.tell(a, ASK, node_pid(world, "alice"), request, ref=1)
    near.clear()
    b.clear()
    for to in (near, b):
        world.tell(a, SEND, to.process(1), dumps("last words"))
    world.detach(a)
    world.settle()
    for runtime in (near, b):
        assert runtime.kinds() == [SEND, GONE]
        assert news(runtime) == [(GONE, a.pid, ["crashed", ["kvs"]])]
    assert world.routers["alice"].statistics().name_count == 0
    world.detach(a)  # once
    assert news(near) == [(GONE, a.pid, ["crashed", ["kvs"]])]


def test_the_end_of_a_node_is_told_once_and_it_may_come_back() -> None:
    world = World("alice", "bob")
    a, b = world.attach("alice"), world.attach("bob")
    world.join("alice", "bob")
    a.clear()
    world.tell(a, SEND, b.process(1), dumps("never comes"))
    world.part("alice", "bob")
    world.routers["alice"].node_down("bob", 0.0)
    world.perform("alice")
    assert news(a) == [(GONE, node_pid(world, "bob"), "noconnection")]
    assert world.routers["alice"].nodes() == []
    a.clear()
    b.clear()
    world.join("alice", "bob")
    assert news(a) == [(UP, node_pid(world, "bob"), None), (UP, b.pid, "m")]
    world.tell(a, SEND, b.process(1), dumps("comes"))
    world.settle()
    assert [loads(each.body) for each in b.inbox if each.kind == SEND] == ["comes"]


def test_a_node_that_was_lost_by_its_peer_alone_is_gone_and_up_on_both_sides() -> None:
    world = World("alice", "bob")
    a, b = world.attach("alice"), world.attach("bob")
    world.join("alice", "bob")
    a.clear()
    b.clear()
    world.lose("alice", "bob")
    world.see("alice", "bob")  # bob has noticed nothing but that there is another link
    world.see("bob", "alice")
    world.settle()
    for runtime, other in ((a, "bob"), (b, "alice")):
        assert [kind for kind, _, _ in news(runtime)] == [GONE, UP, UP]
        assert news(runtime)[0] == (GONE, node_pid(world, other), "noconnection")
    world.tell(b, MONITOR, a.process(1), ref=4)
    world.settle()
    assert a.inbox[-1].ref == 4


def test_another_link_of_a_node_loses_nothing() -> None:
    world = World("alice", "bob")
    a, b = world.attach("alice"), world.attach("bob")
    world.join("alice", "bob")
    for number in range(5):
        world.tell(a, SEND, b.process(1), ref=number)
    world.queues["alice", "bob"].clear()  # with the link that they were on
    world.routers["alice"].link_changed("bob")
    world.perform("alice")
    world.settle()
    assert [each.ref for each in b.inbox if each.kind == SEND] == [0, 1, 2, 3, 4]


def test_a_new_start_of_a_node_is_another_node() -> None:
    world = World("alice", "bob")
    a, b = world.attach("alice"), world.attach("bob")
    world.join("alice", "bob")
    world.part("alice", "bob")
    former = b.process(1)
    world.routers["bob"] = ProcessRouter("bob", 99)
    again = world.attach("bob")
    world.join("alice", "bob")
    a.clear()
    world.tell(a, MONITOR, former, ref=1)
    world.tell(a, MONITOR, again.process(1), ref=2)
    assert [(each.kind, each.ref) for each in a.inbox] == [(DOWN, 1)]
    world.settle()
    assert again.inbox[-1].ref == 2


def test_a_line_acknowledges_in_time() -> None:
    world = World("alice", "bob")
    a, b = world.attach("alice"), world.attach("bob")
    world.join("alice", "bob")
    world.pass_time(1.0)
    world.tell(a, SEND, b.process(1))
    line = world.routers["alice"]._peers[b"bob"].line
    world.settle()
    assert line.waiting_bytes > 0
    assert world.routers["bob"].next_timer() == world.now + ACK_S
    world.pass_time(ACK_S)
    assert line.waiting_bytes == 0
    assert world.routers["bob"].next_timer() == inf


def test_segments_of_a_node_that_is_not_up_or_of_another_start_are_dropped() -> None:
    world = World("alice", "bob")
    world.attach("bob")
    world.see("alice", "bob")
    segment = world.queues["alice", "bob"][0]
    router = world.routers["bob"]
    router.receive_node("alice", world.incarnation("alice"), segment, 0.0)
    world.see("bob", "alice")
    router.receive_node("alice", 1, segment, 0.0)
    assert router.statistics().dropped_count == 2


def test_junk_from_a_node_is_its_fault() -> None:
    world = World("alice", "bob")
    world.join("alice", "bob")
    world.routers["alice"]._peers[b"bob"].line.send(b"\xff" * 60)
    world.routers["alice"].link_changed("bob")
    world.perform("alice")
    with pytest.raises(RemoteProtocolError):
        world.settle()


def test_the_daemon_asks_a_runtime() -> None:
    world = World("alice", "bob")
    a, other = world.attach("alice"), world.attach("alice")
    router = world.routers["alice"]
    a.clear()
    first, second = router.ask(a.serial, ["processes"]), router.ask(a.serial, ["x"])
    world.perform("alice")
    assert [(each.kind, each.ref, loads(each.body)) for each in a.inbox] == [
        (ASK, first, ["processes"]),
        (ASK, second, ["x"]),
    ]
    to = node_pid(world, "alice")
    world.tell(other, REPLY, to, dumps("not asked"), ref=first)
    world.tell(a, REPLY, to, dumps([]), ref=first)
    world.tell(a, REPLY, to, dumps([]), ref=first)
    assert world.answers == [Answered(first, dumps([]))]
    world.detach(a)
    assert world.answers[1:] == [Answered(second, None)]


def test_modules_change_with_a_second_attachment() -> None:
    world = World("alice")
    a, b = world.attach("alice", "m", "old"), world.attach("alice")
    router = world.routers["alice"]
    router.update(a.serial, {"new": b"d"})
    for name in ("old", "new"):
        world.tell(b, SPAWN, Pid("alice", 0, 0), dumps([]), ref=1, name=name)
    assert [each.to_name for each in a.inbox if each.kind == SPAWN] == ["new"]
    assert SPAWNED in b.kinds()


@pytest.mark.parametrize(
    "modules",
    [
        {"": b""},
        {"x" * (PROCESS_NAME_BYTES_MAX + 1): b""},
        {"x": "text"},
        {5: b""},
        {f"m{n}": b"" for n in range(RUNTIME_MODULES_MAX + 1)},
    ],
)
def test_modules_that_are_none(modules: dict[str, object]) -> None:
    with pytest.raises(RemoteError, match="badarg"):
        ProcessRouter("alice", 1).attach("m", modules, 0.0)


def test_tables_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    router = ProcessRouter("alice", 1)
    router.attach("m", {f"m{n}": b"" for n in range(RUNTIME_MODULES_MAX)}, 0.0)
    assert RUNTIMES_MAX >= 1_024
    monkeypatch.setattr(processes, "RUNTIMES_MAX", 2)
    router.attach("m", {}, 0.0)
    with pytest.raises(NoConnection, match="overloaded"):
        router.attach("m", {}, 0.0)
    for number in range(FAILED_MAX + 1):
        router.connect_failed(f"n{number}", "silent", 0.0)
    assert len(router._failed) == FAILED_MAX
    for number in range(PEERS_MAX + 1):
        router.node_up(f"n{number}", 1, 0.0)
        router.node_down(f"n{number}", 0.0)
    assert len(router._peers) == PEERS_MAX


# -- every signal has a fate

NAMES = ("alice", "bob", "carol")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "send",
                "send",
                "send",
                "deliver",
                "deliver",
                "join",
                "part",
                "lose",
                "attach",
                "detach",
                "relink",
                "fail",
            ]
        ),
        st.integers(0, 11),
        st.integers(0, 11),
        st.sampled_from([SEND, SEND, MONITOR, LINK, ASK]),
    ),
    max_size=60,
)


class Fates:
    """A world, and what was sent in it."""

    def __init__(self) -> None:
        self.world = World(*NAMES)
        self.all = [self.world.attach(name) for name in NAMES for _ in range(2)]
        self.sent: list[tuple[int, int, OneRuntime, Pid, int]] = []

    def send(self, kind: int, sender: OneRuntime, to: Pid) -> None:
        number = len(self.sent) + 1
        self.sent.append((number, kind, sender, to, len(sender.inbox)))
        self.world.tell(sender, kind, to, dumps(number), ref=number, count=number)

    def step(self, what: str, one: int, two: int, kind: int) -> None:
        world, everyone = self.world, self.all
        runtime, other = everyone[one % len(everyone)], everyone[two % len(everyone)]
        here, there = NAMES[one % 3], NAMES[two % 3]
        match what:
            case "send" if runtime.attached and other is not runtime:
                self.send(kind, runtime, other.process(1))
            case "deliver":
                world.deliver(here, there)
            case "join" if here != there:
                world.see(here, there)
                world.see(there, here)
            case "part" if here != there:
                world.part(here, there)
            case "lose" if here != there:
                world.lose(here, there)
            case "relink" if (here, there) in world.seen_up:
                world.see(here, there)
            case "attach":
                everyone.append(world.attach(here))
            case "detach" if runtime.attached:
                world.detach(runtime)
            case "fail" if world.connects:
                self.fail()

    def fail(self) -> None:
        who, whom = self.world.connects.pop(0)
        router = self.world.routers[who]
        if (who, whom) in self.world.seen_up:
            router.connected(whom, whom, self.world.now)
        else:
            router.connect_failed(whom, "silent", self.world.now)
        self.world.perform(who)

    def settle(self) -> None:
        world = self.world
        while world.connects:
            self.fail()
        for one in NAMES:
            for other in NAMES:
                if one < other and {(one, other), (other, one)} & world.seen_up:
                    world.see(one, other)  # who was lost by one side only comes back on a new link
                    world.see(other, one)
        world.settle()
        world.pass_time(1.0)

    def check(self) -> None:
        delivered: dict[int, OneRuntime] = {}
        orders: dict[tuple[Pid, int], list[int]] = defaultdict(list)
        for runtime in self.all:
            for signal in runtime.inbox:
                if signal.kind in (SEND, MONITOR, LINK, ASK):
                    number = loads(signal.body)
                    assert number not in delivered, "twice"
                    delivered[number] = runtime
                    base = signal.from_number >> SERIAL_SHIFT
                    sender = Pid(signal.from_node, signal.from_incarnation, base)
                    orders[sender, id(runtime)].append(number)
        assert all(order == sorted(order) for order in orders.values()), "not in order"
        fates = Counter(self.fate(*each, delivered=delivered.get(each[0])) for each in self.sent)
        counted = sum(router.statistics().dropped_count for router in self.world.routers.values())
        assert fates["unknown"] <= counted, fates

    def fate(
        self,
        number: int,
        kind: int,
        sender: OneRuntime,
        to: Pid,
        before: int,
        delivered: OneRuntime | None,
    ) -> str:
        if delivered is not None:
            return "delivered"
        if not sender.attached:
            return "nobody waits"
        for signal in sender.inbox[before:]:
            if signal.kind == DOWN and signal.ref == number:
                return "answered"
            if signal.kind == EXIT and signal.to_number == sender.process(number).number:
                return "answered"
            if signal.kind == GONE and signal.from_node == to.node:
                return "told of the end"
        assert kind == SEND, "a request without an answer"
        return "unknown"


@settings(derandomize=True, deadline=None, max_examples=400)
@given(STEPS)
def test_every_signal_is_delivered_answered_or_counted(
    steps: list[tuple[str, int, int, int]],
) -> None:
    fates = Fates()
    for step in steps:
        fates.step(*step)
    fates.settle()
    fates.check()


def test_the_faults_of_that_test_really_happen() -> None:
    fates = Fates()
    script = [("join", 0, 1, 0), ("send", 0, 2, MONITOR), ("part", 0, 1, 0)]
    script += [("send", 0, 2, ASK), ("fail", 0, 0, 0), ("detach", 3, 0, 0), ("send", 2, 3, SEND)]
    for step in script:
        fates.step(*step)
    fates.settle()
    found = {fates.fate(*each, delivered=None) for each in fates.sent}
    assert found == {"told of the end", "answered", "unknown"}
    fates.check()


def test_after_the_end_of_a_node_nothing_more_of_it_comes() -> None:
    world = World("alice", "bob")
    a, b = world.attach("alice"), world.attach("bob")
    world.join("alice", "bob")
    world.tell(b, SEND, a.process(1), dumps("late"))
    late = list(world.queues["bob", "alice"])
    world.lose("alice", "bob")
    place = len(a.inbox)
    world.see("alice", "bob")
    world.queues["bob", "alice"].extend(late)
    world.settle()
    assert [each.kind for each in a.inbox[place:] if each.kind == SEND] == []
    world.send(b, encode_signal(SEND, a.process(1), b.process(1)))
    world.settle()
    assert a.kinds().count(SEND) == 1


def test_what_was_sent_before_the_end_of_a_node_was_read_goes_nowhere() -> None:
    """Else a LINK that was under way holds on one side only: found by the ladder's simulator."""
    world = World("alice", "bob")
    a, b = world.attach("alice"), world.attach("bob")
    world.join("alice", "bob")
    world.answers_gone = False
    world.part("alice", "bob")
    world.join("alice", "bob")
    b.clear()
    world.tell(a, LINK, b.process(1))
    world.tell(a, SEND, Pid("bob", 0, 0), name="kitchen")
    world.settle()
    assert b.inbox == []
    world.send(a, encode_signal(GONE, node_pid(world, "bob"), a.pid))
    world.tell(a, LINK, b.process(1))
    world.settle()
    assert b.kinds() == [LINK]
    forged = world.routers["alice"].statistics().forged_count
    world.send(a, encode_signal(GONE, node_pid(world, "bob"), a.pid))  # once too often
    assert world.routers["alice"].statistics().forged_count == forged + 1


def test_a_pid_of_a_life_that_the_unread_end_does_not_cover_is_answered() -> None:
    """Heard of from a third node, before our runtime read that the former life is over."""
    world = World("alice", "bob")
    a = world.attach("alice")
    world.join("alice", "bob")
    world.answers_gone = False
    gone = world.incarnation("bob")
    world.part("alice", "bob")
    a.clear()
    for incarnation in (gone, gone + 1):
        pid = Pid("bob", incarnation, 1 << SERIAL_SHIFT | 5)
        for kind, ref in ((LINK, 0), (MONITOR, 1), (ASK, 2), (SEND, 0)):
            world.tell(a, kind, pid, dumps(None), ref=ref)
    world.settle()
    answers = [(each.kind, each.ref, each.from_incarnation) for each in a.inbox]
    assert answers == [(EXIT, 0, gone + 1), (DOWN, 1, gone + 1), (DOWN, 2, gone + 1)]
    assert {loads(each.body) for each in a.inbox} == {"noconnection"}


def test_two_ends_of_a_node_are_answered_twice() -> None:
    world = World("alice", "bob")
    a, b = world.attach("alice"), world.attach("bob")
    world.answers_gone = False
    for _ in range(2):
        world.join("alice", "bob")
        world.part("alice", "bob")
    world.join("alice", "bob")
    b.clear()
    for expected in ([], [LINK]):
        world.send(a, encode_signal(GONE, node_pid(world, "bob"), a.pid))
        world.tell(a, LINK, b.process(1))
        world.settle()
        assert b.kinds() == expected


def test_ties_of_a_runtime_that_is_gone_wait_for_no_node() -> None:
    """Else who is watched keeps a watcher that is gone: found by the ladder's simulator."""
    world = World("alice", "bob")
    a, b = world.attach("alice"), world.attach("bob", "m", "kitchen")
    other = world.attach("alice")
    for kind in (LINK, MONITOR, ASK, SEND):
        world.tell(a, kind, b.process(1), dumps(None))
        world.tell(other, kind, b.process(2), dumps(None))
    world.tell(a, SPAWN, Pid("bob", 0, 0), name="kitchen")
    world.detach(a)
    world.join("alice", "bob")
    mine = [each.kind for each in b.inbox if each.sender == a.process(1)]
    others = [each.kind for each in b.inbox if each.sender == other.process(1)]
    assert (mine, others) == ([SEND], [LINK, MONITOR, ASK, SEND])
