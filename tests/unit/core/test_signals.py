"""Where signals go, who answers for whom, names and flow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.core.lines import PAUSE_BYTES
from drupelet.core.signals import FAILED_S
from drupelet.errors import (
    NoConnection,
    RemoteError,
    RemoteProtocolError,
    error_from_fields,
)
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid
from drupelet.wire.limits import (
    BODY_BYTES_MAX,
    CONNECTING_BYTES_MAX,
    PROCESS_NAME_BYTES_MAX,
    PROCESS_NAMES_MAX,
)
from drupelet.wire.messages.processes import (
    ASK,
    DEMONITOR,
    DOWN,
    EXIT,
    EXIT_SENT,
    GONE,
    GROUP,
    LINK,
    MONITOR,
    PAUSE,
    PROXY_MARK,
    REPLY,
    RESUME,
    SEND,
    SERIAL_SHIFT,
    SPAWN,
    SPAWNED,
    TRACE,
    UP,
    encode_signal,
    split_signals,
)
from tests.unit.core.routers import OneRuntime, World


def pair() -> tuple[World, OneRuntime, OneRuntime]:
    """Alice and Bob, connected, a runtime on each."""
    world = World("alice", "bob")
    a, b = world.attach("alice"), world.attach("bob")
    world.join("alice", "bob")
    a.clear()
    b.clear()
    return world, a, b


def daemon(world: World, name: str) -> Pid:
    return Pid(name, world.incarnation(name), 0)


def test_between_runtimes_of_one_node_the_bytes_pass_unchanged() -> None:
    world = World("alice")
    one, two = world.attach("alice"), world.attach("alice")
    two.clear()
    world.tell(one, SEND, two.process(5), b"\xff not even a value")
    (signal,) = two.inbox
    assert signal.sender == one.process(1)
    assert (signal.to_number, signal.body) == (two.process(5).number, b"\xff not even a value")


def test_many_signals_in_one_read_are_one_cast_for_each_destination() -> None:
    world, a, b = pair()
    other = world.attach("alice")
    world.casts = 0
    signals = []
    for number in range(300):
        for to in (b, other):
            signals.append(encode_signal(SEND, to.process(1), a.process(1), number))
    world.send(a, *signals)
    assert world.casts == 2
    world.settle()
    assert [signal.ref for signal in b.inbox if signal.kind == SEND] == list(range(300))
    assert [signal.ref for signal in other.inbox if signal.kind == SEND] == list(range(300))


def test_a_stream_may_be_cut_anywhere() -> None:
    world, a, b = pair()
    data = encode_signal(SEND, b.process(1), a.process(1), body=b"whole")
    router = world.routers["alice"]
    for place in range(len(data)):
        router.receive_runtime(a.serial, data[place : place + 1], 0.0)
    world.perform("alice")
    world.settle()
    assert [signal.body for signal in b.inbox] == [b"whole"]


ABSENT = [
    ("a runtime that never was", lambda w, b: Pid("bob", w.incarnation("bob"), 99 << 40 | 1)),
    ("another life of the node", lambda w, b: Pid("bob", 1, b.process(1).number)),
    ("another life of our own", lambda w, b: Pid("alice", 1, 1 << 40 | 1)),
    ("a runtime here that never was", lambda w, b: Pid("alice", w.incarnation("alice"), 1 << 50)),
    ("a daemon", lambda w, b: Pid("bob", w.incarnation("bob"), 0)),
]


@pytest.mark.parametrize(("what", "make"), ABSENT, ids=[what for what, _ in ABSENT])
def test_who_is_not_there_is_answered_for(what: str, make: Any) -> None:
    world, a, b = pair()
    dead = make(world, b)
    world.tell(a, LINK, dead)
    world.tell(a, MONITOR, dead, ref=5)
    if dead.number:
        world.tell(a, ASK, dead, dumps("x"), ref=6)
    world.settle()
    answers = [(each.kind, each.ref, loads(each.body)) for each in a.inbox]
    expected = [(EXIT, 0, "noproc"), (DOWN, 5, "noproc"), (DOWN, 6, "noproc")]
    assert answers == expected[: 3 if dead.number else 2]
    assert all(each.sender == dead for each in a.inbox)
    dropped = sum(router.statistics().dropped_count for router in world.routers.values())
    world.tell(a, SEND, dead, dumps(1))
    world.tell(a, EXIT_SENT, dead, dumps("kill"))
    world.settle()
    after = sum(router.statistics().dropped_count for router in world.routers.values())
    assert after == dropped + 2
    assert b.inbox == []


def test_a_name_that_nobody_has_is_answered_for() -> None:
    world, a, _ = pair()
    for node in ("alice", "bob"):
        world.tell(a, MONITOR, Pid(node, 0, 0), ref=3, name="kvs")
        world.tell(a, ASK, Pid(node, 0, 0), dumps(1), ref=4, name="kvs")
    world.settle()
    assert [(each.kind, each.ref) for each in a.inbox] == [(DOWN, 3), (DOWN, 4)] * 2
    assert {loads(each.body) for each in a.inbox} == {"noproc"}


def test_a_node_that_cannot_be_reached() -> None:
    world, a, _ = pair()
    carol = Pid("carol", 9, 1 << 40 | 1)
    world.tell(a, MONITOR, carol, ref=1)
    world.tell(a, LINK, carol)
    world.tell(a, SPAWN, Pid("carol", 0, 0), dumps([]), ref=2, name="kitchen")
    world.tell(a, SEND, carol, dumps(1))
    assert world.connects == [("alice", "carol")]
    assert a.inbox == []
    world.routers["alice"].connect_failed("carol", "no_such_node", world.now)
    world.perform("alice")
    down, exited, spawned = a.inbox
    assert (down.kind, down.ref, loads(down.body)) == (DOWN, 1, "noconnection")
    assert (exited.kind, exited.sender, loads(exited.body)) == (EXIT, carol, "noconnection")
    assert (spawned.kind, spawned.ref) == (SPAWNED, 2)
    error = error_from_fields(loads(spawned.body))
    assert isinstance(error, NoConnection)
    assert error.reason == "no_such_node"
    assert world.routers["alice"].statistics().dropped_count == 1


def test_a_failure_is_remembered_for_a_second() -> None:
    world, a, _ = pair()
    carol = Pid("carol", 9, 1 << 40 | 1)
    world.tell(a, MONITOR, carol, ref=1)
    world.routers["alice"].connect_failed("carol", "silent", world.now)
    world.tell(a, MONITOR, carol, ref=2)
    assert len(world.connects) == 1
    assert [each.ref for each in a.inbox] == [1, 2]
    world.now += FAILED_S
    world.tell(a, MONITOR, carol, ref=3)
    assert len(world.connects) == 2


def test_signals_wait_for_a_node_that_is_being_connected() -> None:
    world = World("alice", "bob")
    a, b = world.attach("alice"), world.attach("bob")
    for number in range(3):
        world.tell(a, SEND, b.process(1), ref=number)
    world.tell(a, SEND, Pid("bob@host", 0, 0), ref=9, name="kvs")
    assert world.connects == [("alice", "bob"), ("alice", "bob@host")]
    world.join("alice", "bob")
    world.routers["alice"].connected("bob@host", "bob", world.now)
    world.perform("alice")
    world.settle()
    assert [each.ref for each in b.inbox if each.kind == SEND] == [0, 1, 2]
    assert world.routers["bob"].statistics().dropped_count == 1  # nobody is called kvs
    world.tell(a, MONITOR, Pid("bob@host", 0, 0), ref=10, name="kvs")
    world.settle()
    assert len(world.connects) == 2
    assert a.inbox[-1].ref == 10


def test_what_waits_for_nodes_is_bounded_at_the_maximum_and_one_above() -> None:
    world = World("alice")
    a = world.attach("alice")
    carol = Pid("carol", 9, 1 << 40 | 1)
    empty = len(encode_signal(MONITOR, carol, a.process(1)))
    body = bytes(CONNECTING_BYTES_MAX // 8 - empty)
    assert len(body) < BODY_BYTES_MAX
    for number in range(8):
        world.tell(a, MONITOR, carol, body, ref=number)
    assert a.inbox == []
    world.tell(a, MONITOR, carol, ref=8)
    assert [(each.ref, loads(each.body)) for each in a.inbox] == [(8, "noconnection")]


# -- who may say what


def test_a_runtime_speaks_for_itself_only() -> None:
    world, a, b = pair()
    other = world.attach("alice")
    world.settle()
    other.clear()
    b.clear()
    for sender in (
        other.process(1),
        Pid("alice", 1, a.process(1).number),
        Pid("bob", a.pid.incarnation, a.process(1).number),
        daemon(world, "alice"),
    ):
        world.send(a, encode_signal(SEND, other.process(1), sender))
        world.send(a, encode_signal(MONITOR, b.process(1), sender))
    for kind in (UP, GONE):
        world.send(a, encode_signal(kind, other.pid, a.pid, 0, dumps("x")))
        world.send(a, encode_signal(kind, b.pid, a.pid, 0, dumps("x")))
    world.settle()
    assert (other.inbox, b.inbox) == ([], [])
    assert world.routers["alice"].statistics().forged_count == 4 * 2 + 4
    assert world.routers["bob"].statistics().forged_count == 0


def test_a_node_speaks_for_itself_only() -> None:
    world, _, b = pair()
    line = world.routers["alice"]._peers[b"bob"].line
    for sender in (Pid("carol", 7, 1), Pid("alice", 99, 1), b.process(1)):
        line.send(encode_signal(SEND, b.process(1), sender))
    line.send(encode_signal(GONE, b.pid, Pid("alice", 7, 1 << 40), 0, dumps("x")))
    world.routers["alice"].link_changed("bob")
    world.perform("alice")
    world.settle()
    assert b.inbox == []
    assert world.routers["bob"].statistics().forged_count == 4


def test_a_pid_of_ours_under_another_nodes_name_is_nobody() -> None:
    world, a, b = pair()
    line = world.routers["alice"]._peers[b"bob"].line
    other = Pid("carol", b.pid.incarnation, b.process(1).number)
    for kind in (SEND, EXIT_SENT, PAUSE):
        line.send(encode_signal(kind, other, a.process(1), 0, dumps("x")))
    line.send(encode_signal(SEND, b.process(1), a.process(1), 0, dumps("good")))
    world.routers["alice"].link_changed("bob")
    world.perform("alice")
    world.settle()
    assert [loads(each.body) for each in b.inbox] == ["good"]


def test_what_is_no_signal_is_its_senders_fault_and_comes_no_further() -> None:
    good = encode_signal(SEND, Pid("alice", 7, 2 << 40 | 1), Pid("alice", 7, 1 << 40 | 1), 1)
    wrong_kind = good[:4] + b"\x63" + good[5:]
    lying = good[:5] + b"\xff" + good[6:]
    large = good[:8] + b"\xff" + good[9:]
    for bad in (wrong_kind, lying, large, b"\0\0\0\0", b"\xff" * 60):
        world = World("alice")
        one, two = world.attach("alice"), world.attach("alice")
        two.clear()
        with pytest.raises(RemoteProtocolError):
            world.send(one, good, bad)
        world.perform("alice")
        assert len(two.inbox) <= 1


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.data())
def test_junk_never_reaches_another_runtime_malformed(draw: Any) -> None:
    world, a, b = pair()
    other = world.attach("alice")
    other.clear()
    targets = [b.process(1), other.process(1), Pid("zoe", 1, 5), daemon(world, "alice")]
    signal = bytearray()
    for to in draw.draw(st.lists(st.sampled_from(targets), min_size=1, max_size=4)):
        kind = draw.draw(st.integers(1, 18))
        name = draw.draw(st.sampled_from(["", "", "kvs"]))
        body = draw.draw(st.binary(max_size=8))
        signal += encode_signal(kind, to, a.process(1), 1, body, name=name)
    for _ in range(draw.draw(st.integers(0, 3))):
        place = draw.draw(st.integers(0, len(signal) - 1))
        signal[place] = draw.draw(st.integers(0, 255))
    try:
        world.send(a, bytes(signal))
    except RemoteProtocolError:
        world.perform("alice")
    world.settle()  # a peer or a runtime that got junk would raise here


# -- names


def ask(world: World, runtime: OneRuntime, node: str, request: object) -> object:
    runtime.clear()
    world.tell(runtime, ASK, daemon(world, node), dumps(request), ref=77)
    world.settle()
    (reply,) = [each for each in runtime.inbox if each.kind == REPLY]
    assert reply.ref == 77
    assert reply.sender == daemon(world, node)
    return loads(reply.body)


def test_names_are_of_the_whole_node_and_seen_from_every_node() -> None:
    world, a, b = pair()
    other = world.attach("alice")
    assert ask(world, a, "alice", ["register", "kvs", a.process(3)]) is True
    assert ask(world, other, "alice", ["whereis", "kvs"]) == a.process(3)
    assert ask(world, b, "alice", ["whereis", "kvs"]) == a.process(3)
    assert ask(world, b, "alice", ["registered"]) == [["kvs", a.process(3)]]
    assert ask(world, b, "bob", ["whereis", "kvs"]) is None
    a.clear()
    world.tell(b, SEND, Pid("alice", 0, 0), dumps("hello"), name="kvs")
    world.tell(other, ASK, Pid("alice", 0, 0), dumps("you?"), ref=5, name="kvs")
    world.settle()
    second, first = a.inbox
    assert (first.kind, first.to_number, first.to_name) == (SEND, a.process(3).number, "")
    assert (second.kind, second.ref, second.sender) == (ASK, 5, other.process(1))
    assert ask(world, a, "alice", ["unregister", "kvs"]) is True
    assert ask(world, a, "alice", ["whereis", "kvs"]) is None


def test_a_name_is_refused_with_a_word() -> None:
    world, a, b = pair()
    other = world.attach("alice")
    assert ask(world, a, "alice", ["register", "kvs", a.process(1)]) is True
    for runtime, request in (
        (other, ["register", "kvs", other.process(1)]),
        (a, ["register", "kvs", a.process(1)]),
        (a, ["register", "x", other.process(1)]),
        (a, ["register", "x", b.process(1)]),
        (a, ["register", "x", Pid("alice", 1, a.process(1).number)]),
        (a, ["register", "", a.process(1)]),
        (a, ["register", "x" * (PROCESS_NAME_BYTES_MAX + 1), a.process(1)]),
        (a, ["register", 5, a.process(1)]),
        (a, "nonsense"),
        (a, ["stop"]),
    ):
        answer = ask(world, runtime, "alice", request)
        assert isinstance(answer, list)
        assert answer[0] == "error"
        assert isinstance(answer[1], str)
    for request in (["register", "x", b.process(1)], ["unregister", "kvs"]):
        answer = ask(world, b, "alice", request)
        assert isinstance(answer, list)
        assert answer[0] == "error"
    assert ask(world, other, "alice", ["unregister", "kvs"]) is False
    assert ask(world, a, "alice", ["register", "x" * PROCESS_NAME_BYTES_MAX, a.process(1)]) is True


def test_a_request_that_is_no_value_is_refused_and_nobody_is_cut_off() -> None:
    world, a, _ = pair()
    world.tell(a, ASK, daemon(world, "bob"), b"\xff", ref=1)
    world.tell(a, ASK, daemon(world, "alice"), b"\xff", ref=2)
    world.settle()
    assert sorted(each.ref for each in a.inbox if each.kind == REPLY) == [1, 2]


def test_names_at_the_maximum_and_one_above() -> None:
    world = World("alice")
    a = world.attach("alice")
    world.send(
        a,
        *(
            encode_signal(
                ASK, daemon(world, "alice"), a.pid, 0, dumps(["register", f"n{n}", a.process(1)])
            )
            for n in range(PROCESS_NAMES_MAX)
        ),
    )
    assert a.inbox == []  # ref 0: nobody wants an answer
    assert world.routers["alice"].statistics().name_count == PROCESS_NAMES_MAX
    answer = ask(world, a, "alice", ["register", "one more", a.process(1)])
    assert answer == ["error", f"alice has {PROCESS_NAMES_MAX} names already"]


# -- spawning


def test_spawn_goes_to_the_runtime_that_has_the_module() -> None:
    world = World("alice", "bob")
    a = world.attach("alice")
    world.attach("bob", "kvs", "kvs")
    kitchen = world.attach("bob", "kitchen", "kitchen", "oven")
    world.join("alice", "bob")
    kitchen.clear()
    body = dumps(["boil", [1], b"", {}])
    world.tell(a, SPAWN, Pid("bob", 0, 0), body, ref=8, name="oven")
    world.settle()
    (signal,) = kitchen.inbox
    assert (signal.kind, signal.to_name, signal.body, signal.ref) == (SPAWN, "oven", body, 8)
    a.clear()
    world.tell(a, SPAWN, Pid("bob", 0, 0), body, ref=9, name="garden")
    world.settle()
    error = error_from_fields(loads(a.inbox[0].body))
    assert isinstance(error, RemoteError)
    assert error.kind == "undef"
    assert "kitchen, kvs, oven" in error.message


# -- flow


def test_a_full_line_pauses_our_runtimes_and_resumes_them() -> None:
    world, a, b = pair()
    world.tell(a, SEND, b.process(1), bytes(PAUSE_BYTES + 1))
    assert [(each.kind, each.sender) for each in a.inbox] == [(PAUSE, daemon(world, "bob"))]
    late = world.attach("alice")
    assert PAUSE in late.kinds()
    world.settle()
    assert a.kinds() == [PAUSE, UP, RESUME]
    assert late.kinds()[-1] == RESUME
    assert len(b.inbox) == 2


def test_who_sends_to_a_runtime_that_does_not_read_is_paused() -> None:
    world, a, b = pair()
    near, quiet = world.attach("bob"), world.attach("bob")
    ask(world, b, "bob", ["register", "slow", b.process(1)])
    for each in (a, near, quiet):
        each.clear()
    world.routers["bob"].congested(b.serial, True)
    for _ in range(3):
        world.tell(a, SEND, b.process(1))
        world.tell(near, SEND, Pid("bob", 0, 0), name="slow")
    world.settle()
    for runtime in (a, near):
        (pause,) = [each for each in runtime.inbox if each.kind == PAUSE]
        assert pause.sender == b.pid
        assert loads(pause.body) == [["slow", "bob"]]
    assert quiet.inbox == []
    world.routers["bob"].congested(b.serial, False)
    world.perform("bob")
    world.settle()
    for runtime in (a, near):
        assert runtime.kinds() == [PAUSE, RESUME]
    assert b.kinds().count(SEND) == 6  # what they sent all the same


def test_groups_reach_every_runtime_of_a_node() -> None:
    world, a, b = pair()
    more = world.attach("bob")
    b.clear()
    more.clear()
    world.tell(a, GROUP, daemon(world, "bob"), b"joined", count=0)
    world.tell(b, GROUP, daemon(world, "bob"), b"too", count=0)
    world.tell(a, GROUP, more.pid, b"to one", count=0)
    world.settle()
    assert [each.body for each in b.inbox] == [b"joined"]
    assert sorted(each.body for each in more.inbox) == [b"joined", b"to one", b"too"]


def test_serials_are_in_the_pids() -> None:
    world = World("alice")
    one = world.attach("alice")
    assert one.pid.number >> SERIAL_SHIFT == one.serial == 1
    data = encode_signal(SEND, one.process(1), one.process(2))
    world.send(one, data)
    assert [own for _, own in split_signals(data)] == [data]
    assert one.kinds() == [SEND]  # by way of the daemon, if a runtime wants it so


# -- processes of strangers

NAME = PROXY_MARK + "5" * 32


def test_what_processes_do_with_a_proxy_pid_is_the_drivers() -> None:
    world, a, b = pair()
    for kind in (SEND, MONITOR, DEMONITOR):
        world.tell(a, kind, daemon(world, "alice"), dumps("hello"), ref=7, name=NAME)
    assert [(name, each.kind, each.to_name) for name, each in world.to_proxies] == [
        ("alice", kind, NAME) for kind in (SEND, MONITOR, DEMONITOR)
    ]
    for kind in (LINK, ASK, EXIT_SENT, TRACE):  # they are for nobody
        world.tell(a, kind, daemon(world, "alice"), dumps("kill"), ref=7, name=NAME)
    assert a.kinds() == [EXIT, DOWN]
    world.tell(b, SEND, daemon(world, "alice"), dumps("hello"), name=NAME)  # nor for members
    world.settle()
    assert len(world.to_proxies) == 3


def test_no_process_gets_the_name_of_a_proxy_pid_by_registering_it() -> None:
    world, a, _ = pair()
    world.tell(a, ASK, daemon(world, "alice"), dumps(["register", NAME, a.process(1)]), ref=1)
    world.tell(a, SEND, daemon(world, "alice"), dumps("hello"), name=NAME)
    assert SEND not in a.kinds()
    assert len(world.to_proxies) == 1


def test_a_message_from_the_daemon_goes_here_and_to_members() -> None:
    world, a, b = pair()
    router = world.routers["alice"]
    for to in (a.process(1), b.process(1), Pid("charlie", 1, 1), Pid("alice", 1, 1)):
        router.deliver(to, dumps("hello"), 0.0)
    world.perform("alice")
    world.settle()
    for runtime in (a, b):
        (signal,) = runtime.inbox
        assert (signal.kind, signal.sender) == (SEND, daemon(world, "alice"))
        assert signal.receiver == runtime.process(1)


def test_a_stranger_does_not_fill_what_is_full() -> None:
    world, a, b = pair()
    router = world.routers["alice"]
    router.congested(a.serial, True)
    before = router.statistics().dropped_count
    router.deliver(a.process(1), dumps("hello"), 0.0)
    assert router.statistics().dropped_count == before + 1
    while not router.statistics().dropped_count > before + 1:
        router.deliver(b.process(1), bytes(PAUSE_BYTES // 4), 0.0)
    world.perform("alice")
    assert a.kinds() == []


@pytest.mark.parametrize("end", ["process", "runtime", "node", "runtime elsewhere", "absent"])
def test_the_daemon_hears_once_that_a_process_ended(end: str) -> None:
    world, a, b = pair()
    router = world.routers["alice"]
    elsewhere = end in ("node", "runtime elsewhere")
    runtime = b if elsewhere else a
    pid = Pid("charlie", 1, 1) if end == "absent" else runtime.process(1)
    for _ in range(2):
        router.watch(pid, 0.0)
    world.perform("alice")
    world.settle()
    if end == "process":
        (asked,) = [each for each in a.inbox if each.kind == MONITOR]
        world.tell(a, DOWN, asked.sender, dumps("bye"), ref=asked.ref, count=2)  # of another one
        world.tell(a, DOWN, asked.sender, dumps("bye"), ref=asked.ref + 1)
        assert world.ended == []
        world.tell(a, DOWN, asked.sender, dumps("bye"), ref=asked.ref)
        world.tell(a, DOWN, asked.sender, dumps("bye"), ref=asked.ref)
    elif end == "node":
        router.node_down("bob", 0.0)
    elif end != "absent":
        world.detach(runtime)
    world.settle()
    world.perform("alice")
    assert set(world.ended) == {("alice", pid)}
    assert len(world.ended) == (2 if end == "absent" else 1)  # each watch of nobody is answered


def test_a_down_of_a_strangers_process() -> None:
    world, a, _ = pair()
    world.routers["alice"].tell_down(a.process(3), 9, "expired", 0.0)
    world.perform("alice")
    (down,) = a.inbox
    assert (down.kind, down.ref, loads(down.body)) == (DOWN, 9, "expired")
    assert (down.sender, down.receiver) == (daemon(world, "alice"), a.process(3))
