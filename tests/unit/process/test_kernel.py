"""Links, monitors, exits and names of one kernel against a model, and each at its maximum."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import RemoteError
from drupelet.process.kernel import NOPROC, SYSTEM_LIMIT, Ask, Kernel
from drupelet.process.table import Process
from drupelet.wire.codec import loads
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.messages import processes as wire
from drupelet.wire.notices import Down, Exit, Request
from tests.unit.process.values import Sans

REASONS = st.sampled_from(["normal", "boom", "kill", "killed", ("ValueError", "bad"), ["list"]])
WHO = st.integers(0, 5)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("new"), st.booleans()),
        st.tuples(st.just("link"), WHO, WHO),
        st.tuples(st.just("unlink"), WHO, WHO),
        st.tuples(st.just("monitor"), WHO, WHO),
        st.tuples(st.just("monitor name"), WHO, st.sampled_from("abc")),
        st.tuples(st.just("demonitor"), WHO, st.integers(0, 8)),
        st.tuples(st.just("name"), WHO, st.sampled_from("abc")),
        st.tuples(st.just("unname"), st.sampled_from("abc")),
        st.tuples(st.just("trap"), WHO, st.booleans()),
        st.tuples(st.just("exit"), WHO, WHO, REASONS),
        st.tuples(st.just("end"), WHO, REASONS),
    ),
    max_size=50,
)


class Model:
    """The same, written down as naively as can be."""

    def __init__(self) -> None:
        self.alive: dict[int, bool] = {}  # traps exits
        self.links: set[frozenset[int]] = set()
        self.monitors: dict[Ref, tuple[int, int, object]] = {}  # watcher, watched, target
        self.names: dict[str, int] = {}
        self.mail: Counter[tuple[int, str]] = Counter()

    def post(self, who: int, notice: object) -> None:
        self.mail[who, repr(notice)] += 1

    def linked(self, who: int) -> set[int]:
        return {other for pair in self.links if who in pair for other in pair if other != who}

    def signal(self, who: int, sender: Pid, reason: object, pids: list[Pid]) -> None:
        if who not in self.alive:
            return
        if self.alive[who]:
            self.post(who, Exit(sender, reason))
        elif reason != "normal":
            self.die(who, reason, pids)

    def die(self, who: int, reason: object, pids: list[Pid]) -> None:
        if self.alive.pop(who, None) is None:
            return
        self.names = {name: other for name, other in self.names.items() if other != who}
        others = self.linked(who)
        self.links = {pair for pair in self.links if who not in pair}
        for ref, (watcher, watched, target) in list(self.monitors.items()):
            if watched == who or watcher == who:
                del self.monitors[ref]
            if watched == who and watcher in self.alive:
                self.post(watcher, Down(ref, target, reason))  # type: ignore[arg-type]
        for other in sorted(others):
            self.signal(other, pids[who], reason, pids)


@settings(max_examples=150)
@given(OPERATIONS)
def test_links_monitors_exits_and_names_do_what_the_model_does(
    operations: list[tuple[Any, ...]],
) -> None:
    kernel, model = Sans(), Model()
    processes: list[Process] = []
    for operation in [("new", False), ("new", True), ("new", False), *operations]:
        _apply(kernel, model, processes, operation)
        _compare(kernel, model, processes)
    for process in processes:
        kernel.end(process, "normal")
    assert not kernel.processes and not kernel.names and not kernel.remote


def _apply(
    kernel: Sans, model: Model, processes: list[Process], operation: tuple[Any, ...]
) -> None:
    kind, *rest = operation
    if kind == "new":
        if len(processes) < 6:
            process = kernel.new_process(None)
            process.trap_exit = rest[0]
            model.alive[len(processes)] = rest[0]
            processes.append(process)
        return
    if kind == "unname":
        holder = kernel.names.pop(rest[0], None)
        if holder is not None:
            assert holder.names is not None
            holder.names.remove(rest[0])
        model.names.pop(rest[0], None)
        return
    who = rest[0] % len(processes)
    me = processes[who]
    pids = [process.pid for process in processes]
    if who not in model.alive:
        return
    if kind == "trap":
        me.trap_exit = model.alive[who] = rest[1]
    elif kind == "name":
        if rest[1] not in kernel.names:
            kernel.name(me, rest[1])
            model.names[rest[1]] = who
    elif kind == "demonitor":
        refs = sorted(model.monitors, key=lambda ref: ref.number)
        if refs:
            ref = refs[rest[1] % len(refs)]
            assert kernel.demonitor(me, ref) == (model.monitors[ref][0] == who)
            if model.monitors[ref][0] == who:
                del model.monitors[ref]
            assert not kernel.demonitor(me, ref)
    elif kind == "monitor name":
        target = (rest[1], kernel.node)
        watched = model.names.get(rest[1])
        ref = kernel.monitor(me, target)
        if watched is not None:
            model.monitors[ref] = (who, watched, target)
        else:  # the answer is the daemon's
            assert kernel.signals.pop().kind == wire.MONITOR
            kernel.down(me, ref, target, NOPROC)
            model.post(who, Down(ref, target, NOPROC))
    elif kind == "end":
        kernel.end(me, rest[1])
        model.die(who, rest[1], pids)
    else:
        _apply_to_another(kernel, model, processes, kind, who, rest[1] % len(processes), rest[2:])


def _apply_to_another(
    kernel: Sans,
    model: Model,
    processes: list[Process],
    kind: str,
    who: int,
    other: int,
    rest: list[Any],
) -> None:
    me, to = processes[who], processes[other]
    pids = [process.pid for process in processes]
    if kind == "link":
        kernel.link(me, to.pid)
        if who != other and other in model.alive:
            model.links.add(frozenset((who, other)))
        elif who != other:
            model.signal(who, to.pid, NOPROC, pids)
    elif kind == "unlink":
        kernel.unlink(me, to.pid)
        model.links.discard(frozenset((who, other)))
    elif kind == "monitor":
        ref = kernel.monitor(me, to.pid)
        if other in model.alive:
            model.monitors[ref] = (who, other, to.pid)
        else:
            model.post(who, Down(ref, to.pid, NOPROC))
    else:
        assert kind == "exit"
        kernel.send_exit(me.pid, to.pid, rest[0])
        if rest[0] == "kill":
            model.die(other, "killed", pids)
        elif model.alive.get(other):
            model.post(other, Exit(me.pid, rest[0]))
        elif rest[0] != "normal" or who == other:
            model.die(other, rest[0], pids)


def _compare(kernel: Kernel, model: Model, processes: list[Process]) -> None:
    for who, process in enumerate(processes):
        assert process.alive == (who in model.alive)
        if not process.alive:
            assert not process.links and not process.watchers and not process.monitors
            continue
        assert (process.links or set()) == {processes[each].pid for each in model.linked(who)}
        own = {ref for ref, (watcher, _, _) in model.monitors.items() if watcher == who}
        seen = {ref for ref, (_, watched, _) in model.monitors.items() if watched == who}
        assert set(process.monitors or ()) == own
        assert set(process.watchers or ()) == seen
        mail = Counter(repr(message) for message in process.messages or ())
        assert mail == Counter({m: n for (w, m), n in model.mail.items() if w == who})
    assert {name: process.pid for name, process in kernel.names.items()} == {
        name: processes[who].pid for name, who in model.names.items()
    }


# -- ends


def test_the_order_in_which_an_end_is_told() -> None:
    """Names are free first, then links, then monitors."""
    kernel = Sans()
    process, other = kernel.new_process(None), kernel.new_process(None)
    other.trap_exit = True
    kernel.name(process, "oven")
    kernel.link(other, process.pid)
    ref = kernel.monitor(other, process.pid)
    seen: list[object] = []
    kernel.set_tracer(
        other, lambda pid, kind, message, peer: seen.append((message, dict(kernel.names))), True
    )
    kernel.end(process, "over")
    assert seen == [(Exit(process.pid, "over"), {}), (Down(ref, process.pid, "over"), {})]
    assert kernel.freed == ["oven"]
    kernel.end(process, "again")
    assert len(seen) == 2 and process.exit_reason == "over"


def test_a_name_is_free_when_its_holder_s_end_is_told() -> None:
    """Who hears of the end can take the name at once, and keeps it."""
    kernel = Sans()
    holder, heir = kernel.new_process(None), kernel.new_process(None)
    kernel.name(holder, "oven")
    kernel.monitor(heir, holder.pid)
    kernel.set_tracer(heir, lambda *_: kernel.name(heir, "oven"), True)
    kernel.end(holder, "normal")
    assert kernel.names == {"oven": heir}
    kernel.end(holder, "normal")
    assert kernel.names == {"oven": heir}


def test_reasons_are_copied_for_each_who_is_told() -> None:
    kernel = Sans()
    process = kernel.new_process(None)
    others = [kernel.new_process(None) for _ in range(4)]
    for other in others:
        other.trap_exit = True
    kernel.link(others[0], process.pid)
    kernel.link(others[1], process.pid)
    kernel.monitor(others[2], process.pid)
    kernel.monitor(others[3], process.pid)
    kernel.end(process, ["shared?"])
    notices = [(other.messages or [None])[0] for other in others]
    reasons = [notice.reason for notice in notices]  # type: ignore[union-attr]
    assert reasons == [["shared?"]] * 4
    assert len({id(reason) for reason in reasons}) == 4


def test_a_reason_that_is_no_data_is_told_as_text() -> None:
    kernel = Sans()
    process, other = kernel.new_process(None), kernel.new_process(None)
    ref = kernel.monitor(other, process.pid)
    kernel.end(process, {"why": {1}})
    assert list(other.messages or ()) == [Down(ref, process.pid, "{'why': {1}}")]
    assert process.exit_reason == "{'why': {1}}"


def test_the_first_reason_counts_and_only_a_kill_wins_over_it() -> None:
    kernel = Sans()
    kernel.slow = True
    process, linked = kernel.new_process(None), kernel.new_process(None)
    kernel.link(process, linked.pid)
    kernel.send_exit(kernel.pid, process.pid, "first")
    kernel.send_exit(kernel.pid, process.pid, "second")
    kernel.send_exit(kernel.pid, process.pid, "killed")
    kernel.end(linked, "killed")
    assert process.exit_reason == "first"
    kernel.send_exit(kernel.pid, process.pid, "kill")
    assert process.exit_reason == "killed"


def test_kill_by_a_link_can_be_trapped() -> None:
    """As in OTP: the *signal* kill cannot; the reason "kill" of an end is a reason like others."""
    kernel = Sans()
    process, trapper, other = (kernel.new_process(None) for _ in range(3))
    trapper.trap_exit = True
    kernel.link(trapper, process.pid)
    kernel.link(other, process.pid)
    kernel.end(process, "kill")
    assert trapper.alive and list(trapper.messages or ()) == [Exit(process.pid, "kill")]
    assert not other.alive and other.exit_reason == "kill"
    kernel.send_exit(other.pid, trapper.pid, "kill")
    assert not trapper.alive and trapper.exit_reason == "killed"


def test_an_exit_that_was_under_way_when_it_was_unlinked_has_no_effect() -> None:
    kernel = Sans()
    kernel.attach("gandalf", 1, 3)
    process = kernel.new_process(None)
    far = Pid("bilbo", 1, 77)
    kernel.link(process, far)
    kernel.unlink(process, far)
    assert kernel.sent() == [wire.LINK, wire.UNLINK]
    kernel.unlink(process, far)
    assert kernel.sent() == [wire.LINK, wire.UNLINK]


# -- maxima


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drupelet.process.kernel.RELATIONS_MAX", 2)


@pytest.mark.usefixtures("few")
def test_as_many_relations_as_may_be_and_one_more() -> None:
    kernel = Sans()
    process, *others = (kernel.new_process(None) for _ in range(4))
    kernel.link(process, others[0].pid)
    ref = kernel.monitor(process, others[1].pid)
    with pytest.raises(ValueError, match="a process has at most 2 links and monitors"):
        kernel.link(process, others[2].pid)
    with pytest.raises(ValueError, match="a process has at most 2 links and monitors"):
        kernel.monitor(process, others[2].pid)
    kernel.link(process, others[0].pid)  # is linked already
    kernel.demonitor(process, ref)
    kernel.link(process, others[2].pid)


@pytest.mark.usefixtures("few")
def test_a_process_that_takes_no_more_says_so() -> None:
    kernel = Sans()
    popular, *others = (kernel.new_process(None) for _ in range(4))
    for other in others:
        other.trap_exit = True
    kernel.monitor(others[0], popular.pid)
    kernel.link(others[1], popular.pid)
    ref = kernel.monitor(others[2], popular.pid)
    kernel.link(others[2], popular.pid)
    assert list(others[2].messages or ()) == [
        Down(ref, popular.pid, SYSTEM_LIMIT),
        Exit(popular.pid, SYSTEM_LIMIT),
    ]
    assert not others[2].monitors and not others[2].links


def test_as_many_processes_as_may_be_and_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drupelet.process.kernel.PROCESSES_MAX", 2)
    kernel = Sans()
    first, second = kernel.new_process(None), kernel.new_process(None)
    assert first.pid != second.pid
    with pytest.raises(RemoteError, match="system_limit: 2 processes run here already"):
        kernel.new_process(None)
    kernel.end(first, "normal")
    assert kernel.new_process(None).pid not in (first.pid, second.pid)


def test_as_many_tracers_as_may_be_and_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drupelet.process.kernel.TRACERS_MAX", 2)
    kernel = Sans()
    process = kernel.new_process(None)
    tracers = [lambda *_, number=number: seen.append(number) for number in range(3)]
    seen: list[int] = []
    for tracer in tracers[:2]:
        kernel.set_tracer(process, tracer, True)
        kernel.set_tracer(process, tracer, True)  # the same again is the same
    with pytest.raises(ValueError, match="2 traces of one process are enough"):
        kernel.set_tracer(process, tracers[2], True)
    kernel.put(process, 1)
    assert sorted(seen) == [0, 1]
    kernel.set_tracer(process, tracers[0], False)
    kernel.set_tracer(process, tracers[0], False)
    kernel.set_tracer(process, tracers[2], True)


# -- identities


def test_pids_of_a_former_life_are_local_and_nobody() -> None:
    kernel = Sans()
    old = kernel.new_process(None)
    kernel.attach("gandalf", 1, 3)
    new = kernel.new_process(None)
    assert new.pid.node == "gandalf" and new.pid.number >> wire.SERIAL_SHIFT == 3
    assert kernel.is_local(old.pid) and kernel.find(old.pid) is old
    kernel.attach("gandalf", 1, 4)
    kernel.end(new, "normal")
    assert kernel.is_local(new.pid) and kernel.find(new.pid) is None
    for other in (
        Pid("gandalf", 2, new.pid.number),
        Pid("bilbo", 1, new.pid.number),
        Pid("gandalf", 1, (5 << wire.SERIAL_SHIFT) + 1),
    ):
        assert not kernel.is_local(other) and kernel.find(other) is None


def test_numbers_are_never_given_twice() -> None:
    kernel = Sans()
    seen = set()
    for serial in (0, 3, 0, 4):
        kernel.attach("gandalf", 1, serial)
        for _ in range(3):
            process = kernel.new_process(None)
            seen |= {process.pid.number, kernel.new_ref()}
            kernel.end(process, "normal")
    assert len(seen) == 24


def test_one_who_links_itself_is_not() -> None:
    kernel = Sans()
    process = kernel.new_process(None)
    kernel.link(process, process.pid)
    kernel.unlink(process, process.pid)
    assert not process.links


# -- names that move


def test_a_monitor_by_name_is_of_the_process_that_had_it() -> None:
    kernel = Sans()
    watcher, first, second = (kernel.new_process(None) for _ in range(3))
    kernel.name(first, "oven")
    refs = [kernel.monitor(watcher, ("oven", kernel.node)) for _ in range(2)]
    del kernel.names["oven"]
    first.names = []
    kernel.name(second, "oven")
    kernel.end(second, "normal")
    assert not watcher.messages
    assert kernel.demonitor(watcher, refs[0])
    assert set(first.watchers or ()) == {refs[1]}  # taken back where it is
    kernel.end(first, "over")
    assert list(watcher.messages or ()) == [Down(refs[1], ("oven", kernel.node), "over")]
    assert not kernel.signals


def test_a_monitor_by_name_is_taken_back_after_its_node_was_left() -> None:
    kernel = Sans()
    kernel.attach("gandalf", 1, 3)
    watcher, watched = kernel.new_process(None), kernel.new_process(None)
    kernel.name(watched, "oven")
    refs = [kernel.monitor(watcher, ("oven", "gandalf")) for _ in range(2)]
    kernel.attach("nonode@nohost", 0, 0)
    assert kernel.demonitor(watcher, refs[0])
    assert set(watched.watchers or ()) == {refs[1]}
    kernel.end(watcher, "over")
    assert not watched.watchers and not kernel.signals


# -- requests


def test_an_answer_counts_once_and_a_late_one_is_dropped() -> None:
    kernel = Sans()
    server, other = kernel.new_process(None), kernel.new_process(None)
    number = kernel.new_ref()
    kernel.asks[number] = Ask(server.pid, "asker")
    kernel.ask_local(server, number, kernel.pid, "what?")
    ref = kernel.ref(number)
    assert list(server.messages or ()) == [Request((kernel.pid, ref), "what?")]
    assert server.watchers == {number: kernel.pid}
    kernel.reply(other.pid, kernel.pid, ref, 42)  # another process may answer
    kernel.reply(server.pid, kernel.pid, ref, 43)
    assert kernel.woken == [("asker", 42)]
    assert not kernel.asks and not server.watchers


def test_an_asker_is_told_once_when_the_asked_ends() -> None:
    kernel = Sans()
    server = kernel.new_process(None)
    number = kernel.new_ref()
    kernel.asks[number] = Ask(server.pid, "asker")
    kernel.ask_local(server, number, kernel.pid, "what?")
    kernel.end(server, "over")
    kernel.ask_down(number, "again")
    kernel.reply(server.pid, kernel.pid, kernel.ref(number), 1)
    assert [task for task, _ in kernel.errors] == ["asker"] and not kernel.woken


def test_an_answer_that_cannot_be_sent_leaves_the_asker_watching() -> None:
    """So that it hears of the end of who could not answer."""
    kernel = Sans()
    kernel.attach("gandalf", 1, 3)
    server = kernel.new_process(None)
    far, ref = Pid("bilbo", 1, 77), Ref("bilbo", 1, 78)
    server.watchers = {ref: far}
    with pytest.raises(TypeError):
        kernel.reply(server.pid, far, ref, {1, 2})
    kernel.end(server, "over")
    (signal,) = kernel.signals
    assert (signal.kind, signal.ref, loads(signal.body)) == (wire.DOWN, 78, "over")
