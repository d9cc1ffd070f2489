"""The five honest nodes of the simulated run: the real machines of `core`, driven as daemons do.

Decides nothing: what `services/stranger_calls.py`, `services/relayed_calls.py` and
`services/once.py` do with a disk and workers, this does in virtual time, as small as it can be.
A node's time is its own: it begins anywhere at each boot, and runs a little fast or slow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from drupelet.core.grants import Issued, Revocation, Right
from drupelet.core.once import Ended, OnceRecord, content_of, encoded
from drupelet.core.requests import Answer, Run, Sent
from drupelet.errors import (
    CallError,
    NoConnection,
    NotPermitted,
    RemoteError,
    RemoteProtocolError,
    Revoked,
    Timeout,
    error_from_fields,
)
from drupelet.wire import sodium
from drupelet.wire.announcements import encode_announcement, encode_offers
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid
from drupelet.wire.relay import APPLY_KEY
from tests.sim.stranger_asking import Asking
from tests.sim.stranger_ledger import Deed
from tests.sim.stranger_puts import Puts
from tests.sim.stranger_relay import Message
from tests.sim.stranger_rights import QUOTA, Dead

if TYPE_CHECKING:
    from tests.sim.stranger_world import Link, World

PROOF_DOMAIN = b"drupelet/grant-proof/1"
DISK_S = (0.003, 0.04)
KEEP_S = 30.0  # how often what is left of grants is kept
CANCEL_S = 0.08  # a worker that does not end is killed then
MEMBER_S = 0.5
ERROR = RemoteError("error", "the function raised")

Reply = Callable[[bytes | CallError], None]


@dataclass
class Disk:
    """What outlives a power cut."""

    version: int = 0
    issued: tuple[Issued, ...] = ()
    revoked: tuple[Revocation, ...] = ()
    once: dict[tuple[bytes, bytes], OnceRecord] = field(default_factory=dict)


@dataclass
class Work:
    """A call that was let in. `reply`: who called on a link; `place`: its idempotency key's."""

    right: Right
    target: str
    arguments: bytes
    span_s: float
    reply: Reply | None = None
    place: tuple[bytes, bytes] | None = None
    deed: Deed | None = None  # it began
    peer: bytes = b""


class HonestNode:
    """One node, over all its boots."""

    def __init__(self, world: World, name: str, members: frozenset[str]) -> None:
        self.world = world
        self.name = name
        self.members = members
        self.seed = world.random.randbytes(32)
        self.key = sodium.ed25519_public(self.seed)
        self.rights = world.ledger.nodes[name]
        self.disk = Disk()
        self.boots = 0
        self.is_up = False
        self.paused_until = 0.0
        self.announced_at = -1e9
        self.sequence = 0
        self.pids = 0
        self.rate = 1 + world.random.uniform(-2e-4, 2e-4)

    # -- time

    def local(self) -> float:
        """Its clock."""
        return self._offset + (self.world.now - self._booted_at) * self.rate

    def later(self, delay_s: float, act: Callable[..., None], *args: object) -> None:
        """In so long of its own time, unless it is off by then."""
        self.world.after(delay_s / self.rate, self._later, self.boots, act, args)

    def _later(self, boot: int, act: Callable[..., None], args: tuple[object, ...]) -> None:
        if boot != self.boots or not self.is_up:
            return
        if self.world.now < self.paused_until:
            again_s = self.paused_until - self.world.now
            self.world.after(again_s, self._later, boot, act, args)
            return
        act(*args)

    # -- power

    def power_on(self) -> None:
        """Begin with what the disk has."""
        world = self.world
        self.boots += 1
        self.is_up = True
        self.paused_until = 0.0
        self._offset, self._booted_at = world.random.uniform(0, 1e5), world.now
        now = self._offset
        self.announced_at = -1e9
        self.rights.boot(now)
        machines = world.machines
        self.grants = machines.grants(self.key, world.keys_of(self.members).__contains__, QUOTA)
        self._watch()
        self.grants.restore(self.disk.issued, self.disk.revoked, now)
        self.private = b""
        self.callee = machines.callee(self.seed, self.grants, self._entropy, now)
        records = tuple(self.disk.once.values())
        self.callee.restore(records, now)
        world.effects["once_restored"] += bool(records)
        self.asking = Asking(self)
        self.puts = Puts(self)
        self.proxies = machines.proxies()
        self.revoked = list(self.disk.revoked)
        self.written = self.disk.version
        self.work: dict[int, Work] = {}
        self.waiting: dict[tuple[bytes, bytes], list[Reply]] = {}
        self.shown: dict[int, list[tuple[bytes, Right]]] = {}  # by link: whose, what
        self.later(KEEP_S, self._keep)
        world.relay.node_up(self.key)

    def power_cut(self) -> None:
        """What is not on the disk is gone."""
        world = self.world
        self.is_up = False
        self.boots += 1
        for ticket, work in self.work.items():
            if work.deed is not None:
                world.ledger.ended(self.name, ticket, None)
                world.effects["cut_while_running"] += 1
            else:
                world.effects["cut_before_running"] += 1
        self.rights.cut(self.local())
        world.ledger.proxies_over(self.name, None)
        asked = [attempt for attempt, _ in self.puts.waiting.values()]
        for attempt in (*self.asking.attempts.values(), *asked):  # nobody is left to be told
            if not attempt.over:
                attempt.over = True
                attempt.deed.pending -= 1
        world.links_down(self.name)

    def _entropy(self, size: int) -> bytes:
        drawn = self.world.random.randbytes(size)
        self.private = self.private or drawn  # the first: the key of this boot
        return drawn

    def _watch(self) -> None:
        """The ledger hears what the door says, before anybody acts on it."""
        grants, ledger = self.grants, self.world.ledger
        present, admit, finish = grants.present, grants.admit, grants.finish

        def watched_present(data: bytes, keys: set[bytes], now: float) -> Right:
            answer = "ok"
            try:
                return present(data, keys, now)
            except CallError as error:
                answer = type(error).__name__
                raise
            finally:
                ledger.presented(self.name, data, keys, answer, now, self.world.now)

        def watched_admit(right: Right, function: str, size: int, now: float) -> int:
            answer, ticket = "ok", 0
            try:
                ticket = admit(right, function, size, now)
                return ticket
            except CallError as error:
                answer = type(error).__name__
                raise
            finally:
                what = (right.grant.data, function, size, answer, ticket)
                ledger.asked(self.name, *what, now, self.world.now)

        def watched_finish(ticket: int) -> None:
            finish(ticket)
            self.rights.finished(ticket)

        watched = {"present": watched_present, "admit": watched_admit, "finish": watched_finish}
        grants.__dict__.update(watched)

    # -- disk

    def _disk_s(self) -> float:
        return self.world.random.uniform(*DISK_S)

    def save(self, done: Callable[[], None]) -> None:
        """Keep grants and revocations, then go on."""
        self.written += 1
        now = self.local()
        kept = (self.written, tuple(self.grants.in_force(now)), tuple(self.revoked), now)
        self.later(self._disk_s(), self._saved, kept, tuple(self.rights.dead), done)

    def save_now(self) -> None:
        """At the beginning, nothing is in a hurry."""
        self.disk.issued = tuple(self.grants.in_force(self.local()))

    def _saved(
        self,
        kept: tuple[int, tuple[Issued, ...], tuple[Revocation, ...], float],
        dead: tuple[Dead, ...],
        done: Callable[[], None],
    ) -> None:
        version, issued, revoked, since = kept
        if version > self.disk.version:  # a later one has more
            self.disk = Disk(version, issued, revoked, self.disk.once)
            self.rights.saved_s = since
            self.rights.kept(dead)
        done()

    def _keep(self) -> None:
        self.save(lambda: None)
        self.later(KEEP_S, self._keep)

    # -- the owner

    def revoke(self, what: bytes | str) -> bool:
        """Take back; whether there was anything."""
        try:
            revocation = self.grants.revoke(what, self.local())
        except KeyError:
            return False
        dead = self.world.owners.dead(self, what, revocation.sequence)
        self._carry_out(revocation, dead)
        for member in sorted(self.members - {self.name}):
            self.world.after(MEMBER_S, self.world.tell_member, member, revocation, dead)
        return True

    def merge(self, revocation: Revocation, dead: Dead) -> None:
        """A member says that it has revoked."""
        self._carry_out(self.grants.merge(revocation), dead)

    def _carry_out(self, revocation: Revocation, dead: Dead) -> None:
        self.rights.dead.append(replace(dead))
        self.revoked.append(replace(revocation, tickets=()))
        for ticket in revocation.tickets:
            self.world.effects["revoked_while_running"] += 1
            delay_s = self.world.random.uniform(0, CANCEL_S)
            self.later(delay_s, self._end, ticket, Revoked())
        self.save(functools.partial(self.later, CANCEL_S, self._revoke_returns, dead))

    def _revoke_returns(self, dead: Dead) -> None:
        self.world.ledger.revoke_returned(self.name, dead)

    # -- who calls through the relay

    def announce(self) -> None:
        """Tell the relay which keys and tokens are good now."""
        self.callee.handle_timer(self.local())
        holders: dict[str, tuple[bytes, ...]] = {}
        for issued in self.grants.in_force(self.local()):
            grant = self.grants.grant_of(issued)
            holders[grant.mission] = (*holders.get(grant.mission, ()), grant.holder)
        self.sequence += 1
        self.announced_at = self.world.now
        self.world.relay.announced(
            self.key,
            encode_announcement(
                self.seed,
                name=self.name,
                boot_key=self.callee.boot_key,
                token=self.callee.token,
                run=self.world.relay.catalogue.run,
                sequence=self.sequence,
                offers=encode_offers(self.key, holders),
            ),
        )

    def deliver(self, message: Message) -> None:
        """The relay brought something."""
        effects, now = self.world.effects, self.local()
        if message.re is not None and message.put:
            result = "believed" if self.puts.on_answer(message.re, message.body) else "unbelieved"
        elif message.re is not None:
            told = self.asking.caller.on_reply(message.re, message.body, now)
            result = "unbelieved" if told is None else "believed"
            if isinstance(told, Sent):
                effects["signed_again"] += 1
                self.asking.send(told)
            elif told is not None:
                self.asking.told(told)
        else:
            dropped = self.callee.dropped_count
            if message.put:
                self.world.clients.setdefault(message.ident, message.sender)
                got = self.puts.door.receive(message.ident, message.body, now)
            else:
                got = self.callee.receive(message.sender, message.ident, message.body, now)
            result = "dropped" if self.callee.dropped_count > dropped else "silent"
            if isinstance(got, Answer):
                result = "answered"
                self._answer([got])
            elif isinstance(got, Run):
                result = "let_in"
                self._let_in(got)
        self.world.ledger.note(self.world.now, self.name, result)
        for tag in message.tags:
            effects[f"{tag}: {result}"] += 1

    def _let_in(self, run: Run) -> None:
        place = None
        if run.record is not None:
            place = (run.record.caller, run.record.key)
        work = Work(run.right, run.target, run.arguments, run.span_s, place=place)
        self._start(run.ticket, work, run.record)

    def _start(self, ticket: int, work: Work, record: OnceRecord | None) -> None:
        self.work[ticket] = work
        if record is not None:
            self.later(self._disk_s(), self._recorded, ticket, record)
        else:
            self.later(0.001, self._begin, ticket)

    def _recorded(self, ticket: int, record: OnceRecord) -> None:
        self.disk.once[record.caller, record.key] = record
        if self.world.may_cut(self, "cut_before_run"):
            return
        self.later(self.world.random.choice((0.0, 0.01)), self._begin, ticket)

    def _begin(self, ticket: int) -> None:
        work = self.work.get(ticket)
        if work is None:
            return
        if self.world.random.random() < self.world.worker_gone:
            self.world.effects["worker_gone"] += 1
            self._end(ticket, NoConnection("overloaded"))
            return
        ledger = self.world.ledger
        data = work.right.grant.data
        if not self.grants.holds(work.right, self.local()):
            self._end(ticket, Revoked())
            return
        deed = work.deed = ledger.began(self.name, ticket, data, work.target, work.arguments)
        ledger.note(self.world.now, self.name, "runs", deed.number)
        secret = self.world.random.randbytes(16)
        if deed.maker in self.world.honest and not deed.public:
            ledger.secrets.append(secret)
        value = dumps([self.name, work.target, deed.mark[:4], deed.runs, secret])
        if work.reply is not None and self.world.random.random() < 0.4:
            self._give_proxy(work.peer)
        if deed.span_s > work.span_s:
            self.later(work.span_s, self._end, ticket, Timeout(maybe_ran=True))
        else:
            self.later(deed.span_s, self._end, ticket, ERROR if deed.fails else value)

    def _end(self, ticket: int, result: bytes | CallError) -> None:
        """It ended, was cancelled, or did not begin."""
        work = self.work.pop(ticket, None)
        if work is None:
            return
        ran, ledger = work.deed is not None, self.world.ledger
        if ran:
            ledger.ended(self.name, ticket, result)
        elif isinstance(result, Revoked):
            ledger.not_begun(self.name, work.right.grant.data, self.local(), self.world.now)
        if work.reply is None:
            answers, record = self.callee.finish(ticket, result, self.local(), ran=ran)
        else:
            self.grants.finish(ticket)
            answers, record = [], self._end_once(work, result, ran)
        told = functools.partial(self._tell, work, result, answers)
        if record is not None:
            if not self.world.may_cut(self, "cut_before_told"):
                self.later(self._disk_s(), self._told_durable, record, told)
        else:
            told()

    def _told_durable(self, record: OnceRecord, told: Callable[[], None]) -> None:
        self.disk.once[record.caller, record.key] = record
        told()

    def _tell(self, work: Work, result: bytes | CallError, answers: list[Answer]) -> None:
        replies = self.waiting.pop(work.place, []) if work.place is not None else []
        if work.reply is not None:
            work.reply(result)
            if work.place is not None:
                value = result if isinstance(result, bytes) else None
                error = None if isinstance(result, bytes) else encoded(result)
                answers = self.callee.told(work.place, value, error, self.local())
        self._answer(answers)
        for reply in replies:
            reply(result)

    def _answer(self, answers: list[Answer]) -> None:
        for each in answers:
            ident = self.world.random.randbytes(16)
            put = each.to == APPLY_KEY
            to = self.world.clients[each.re] if put else each.to
            self.world.relay.put(Message(self.key, to, ident, each.re, each.body, put=put))

    # -- who calls on a link

    def on_present(
        self, link: Link, peer: bytes, data: bytes, holder: bytes, proof: bytes
    ) -> CallError | None:
        """A grant is shown; the refusal, if it is one."""
        keys = {peer}
        try:
            if proof:
                sodium.verify(holder, PROOF_DOMAIN + b"\0" + link.binding, proof)
                keys.add(holder)
            right = self.grants.present(data, keys, self.local())
        except RemoteProtocolError:
            return NotPermitted()
        except CallError as error:
            return error
        rights = self.shown.setdefault(link.number, [])
        rights[:] = [each for each in rights if each[1].grant.id != right.grant.id]
        rights.append((peer, right))
        return None

    def on_call(self, link: Link, peer: bytes, deed: Deed, reply: Reply) -> None:
        """A call on a link. With an idempotency key it names the holder of the grant to use."""
        mission, _, function = deed.target.partition("/")
        size = len(deed.arguments)
        failure: CallError = NotPermitted()
        now = self.local()
        for right in self._rights(link, peer, deed):
            if right.grant.mission != mission:
                continue
            try:
                ticket = self.grants.admit(right, function, size, now)
            except NotPermitted as error:
                failure = error if isinstance(failure, NotPermitted) else failure
                continue
            except CallError as error:
                failure = error
                continue
            work = Work(right, deed.target, deed.arguments, 600.0, reply, peer=peer)
            self._let_in_on_link(ticket, work, deed.key, reply)
            return
        reply(failure)

    def _rights(self, link: Link, peer: bytes, deed: Deed) -> list[Right]:
        """Those that are tried: see `OnceService.call`."""
        rights = [right for whose, right in self.shown.get(link.number, ()) if whose == peer]
        if deed.key is None:
            return rights
        return [right for right in rights if right.caller == deed.chain.holder]

    def _let_in_on_link(self, ticket: int, work: Work, key: bytes | None, reply: Reply) -> None:
        record = None
        if key is not None:
            place = work.place = (work.right.caller, key)
            content = content_of(work.target, work.arguments)
            try:
                begun = self.callee.once.begin(*place, content, self.local())
            except CallError as error:
                self.grants.finish(ticket)
                reply(error)
                return
            if not isinstance(begun, OnceRecord):
                self.grants.finish(ticket)
                self.world.effects["once_again_on_link"] += 1
                if begun is None:
                    self.waiting.setdefault(place, []).append(reply)
                else:
                    reply(_result(begun))
                return
            record = begun
        self._start(ticket, work, record)

    def _end_once(self, work: Work, result: bytes | CallError, ran: bool) -> OnceRecord | None:
        if work.place is None:
            return None
        if not ran:
            self.callee.once.forget(work.place)
            return None
        value = result if isinstance(result, bytes) else None
        error = None if isinstance(result, bytes) else encoded(result)
        return self.callee.once.end(work.place, value, error, self.local())

    # -- proxies

    def _give_proxy(self, peer: bytes) -> None:
        self.pids += 1
        pid = Pid(self.name, self.boots, self.pids)
        fresh = self.world.random.randbytes(16)
        secret = self.proxies.give(fresh, pid, peer, self.local())
        if secret is not None:
            until = self.local() + 600.0
            self.world.gave_proxy(secret, self.name, peer, pid.number, until)
            self.later(self.world.random.uniform(5, 120), self._process_ends, pid)

    def _process_ends(self, pid: Pid) -> None:
        self.proxies.process_gone(pid)
        self.world.ledger.proxies_over(self.name, pid.number)

    def on_proxy(self, secret: bytes, peer: bytes) -> None:
        """Somebody sends to a proxy."""
        pid = self.proxies.take(secret, peer, self.local())
        number = None if pid is None else pid.number
        self.world.ledger.proxy_taken(self.name, secret, peer, number, self.local())


def _result(ended: Ended) -> bytes | CallError:
    if ended.value is not None:
        return ended.value
    assert ended.error is not None
    return error_from_fields(loads(ended.error))


__all__ = ["PROOF_DOMAIN", "HonestNode"]
