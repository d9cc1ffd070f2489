"""What the relay does with each message, whichever way it came.

    relay = Relay(store, names=("relay.example.org",), entropy=os.urandom)
    nursery.start_soon(relay.run)
    key = await relay.enter(Login | Register, nonce, address)     # raises RelayRefused
    value = await relay.answer(key, message)                      # raises RelayRefused
    with relay.line(key) as line:                                 # what its mailbox holds
        messages = await line.next(); line.taken(number)

Joins the decisions of `core/relay.py` with the store and with who is connected; `relay/mail.py` has
the mailboxes, `relay/lines.py` the connections, `relay/peers.py` the other relays.

Rules
- `Send` is answered when its message is durable; the recipient's lines are woken by then.
- An account that is no longer approved is cut off within CHANGES_S: its lines end, and its mailbox
  goes.
- Accounts change one after the other, on disk and then here.
- An invite belongs to the relay that made it: one that we do not know is asked for at the peers,
  which use it up. So it never lets in more than its number, wherever they register.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, TypeAlias

import trio

from drupelet.core.plates import Plates
from drupelet.core.relay import RATES, Account, Accounts, Allowances, Catalogue, Rate
from drupelet.core.relay_peers import Peers
from drupelet.errors import RemoteProtocolError
from drupelet.relay.lines import Line, Lines
from drupelet.relay.mail import Mail
from drupelet.relay.store import Store
from drupelet.relay.writing import Writer
from drupelet.wire import relay as wire
from drupelet.wire.announcements import RUN_BYTES, decode_announcement
from drupelet.wire.ids import check_name
from drupelet.wire.relay import (
    APPLY_KEY,
    Ack,
    Announce,
    Find,
    FindPlate,
    FromNode,
    Login,
    Pair,
    Register,
    RelayRefused,
    Send,
    ShowPlate,
    Withdraw,
    check_proof,
)
from drupelet.wire.relay_peers import PeerRegister

AskPeers: TypeAlias = Callable[[PeerRegister], Awaitable[Account]]

CHANGES_S: Final = 1.0  # how long the owner's word takes to be heard
TICK_S: Final = 600.0  # a write each, and messages that are over go
PLATE_KEPT_S: Final = 600  # the longest that a code may be shown

log = logging.getLogger(__name__)


def _nobody(node: bytes, re: bytes | None, body: bytes) -> None:
    """Nobody waits."""


class Relay:
    """All of it, but for sockets."""

    def __init__(
        self,
        store: Store,
        *,
        names: Iterable[str],
        entropy: Callable[[int], bytes],
        rates: Mapping[str, Rate] = RATES,
        peers: Peers | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.names = frozenset(names)
        self.writer = Writer(store)
        self.accounts = Accounts(store.accounts())
        self.catalogue = Catalogue(entropy(RUN_BYTES))
        self.peers = Peers() if peers is None else peers
        self.on_news: Callable[[], None] = lambda: None  # for who tells the peers
        self.ask_peers: AskPeers | None = None
        self.peer_urls: Mapping[bytes, str] = {}
        self.mail = Mail(store, self.writer, self.accounts, self.counts, self._arrived)
        self.lines = Lines(self.mail.read, came=self._came, left=self._left)
        self.on_applied: Callable[[bytes, bytes | None, bytes], None] = _nobody
        self._plates = Plates()
        self._allowances = Allowances({**RATES, **rates})
        self._changing = trio.Lock()

    @property
    def run_id(self) -> bytes:
        """What announcements must name."""
        return self.catalogue.run

    def gauges(self) -> dict[str, int]:
        """What there is now."""
        self.catalogue.expire(trio.current_time())
        return {
            "accounts": len(self.accounts),
            "announced_nodes": len(self.catalogue),
            "lines": len(self.lines),
            "plates": len(self._plates),
            "waiting_messages": self.mail.total,
        }

    # -- the tasks

    async def run(self) -> None:
        """The writer, and what has to be done from time to time. Raises: `StoreFailed`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.writer.run)
            nursery.start_soon(self._watch_changes)
            nursery.start_soon(self._tick)

    async def _watch_changes(self) -> None:
        while True:
            await trio.sleep(CHANGES_S)
            if await self.writer.changed():
                await self.reload()

    async def reload(self) -> None:
        """The owner has changed accounts."""
        async with self._changing:
            self.accounts.load(await self.writer.read(lambda store: store.accounts()))
        self.on_news()
        await self._cut_off()

    async def _cut_off(self) -> None:
        """Who has no account any more."""
        seen = {*self.lines.keys(), *self.mail.recipients(), *self.catalogue.keys()}
        for key in seen.union(self._plates.keys()):
            if not self.accounts.may_receive(key):
                self.lines.end(key)
                self.catalogue.forget(key)
                self._plates.take_back(key)
                await self.mail.clear(key)

    async def merge(self, accounts: Sequence[Account]) -> None:
        """Accounts as a peer has them; those of lower rank than ours change nothing."""

        def job(store: Store) -> list[Account]:
            return [store.merge_account(account) for account in accounts]

        async with self._changing:
            for account in await self.writer.write(job):
                self.accounts.put(account)
        self.on_news()
        await self._cut_off()

    async def _tick(self) -> None:
        while True:
            await self.mail.expire()
            await trio.sleep(TICK_S)

    # -- who comes in

    async def enter(self, message: FromNode, nonce: bytes, address: str) -> bytes:
        """The key that `message` proves; registers it first if it says so.

        Raises: `RelayRefused`: with a bad signature `denied`, whoever it is about.
        """
        now = trio.current_time()
        match message:
            case Login(key=key, audience=audience, signature=signature):
                self._allowances.charge(address.encode(), "login", now)
                self._prove(key, signature, "login", audience, nonce)
                self._allowances.charge(key, "session", now)
                self.accounts.admit(key)
                return key
            case Register(key=key, audience=audience, signature=signature):
                self._allowances.charge(address.encode(), "register", now)
                self._prove(key, signature, "register", audience, nonce)
                await self._register(message)
                return key
        raise RelayRefused("malformed", "log in first")

    def _prove(
        self, key: bytes, signature: bytes, purpose: str, audience: str, nonce: bytes
    ) -> None:
        if audience not in self.names:
            raise RelayRefused("denied", "this relay has another name")
        try:
            check_proof(key, signature, purpose, audience, nonce)
        except RemoteProtocolError:
            self.counts["bad_signatures"] += 1
            raise RelayRefused("denied", "the signature does not hold") from None

    async def _register(self, message: Register) -> None:
        try:
            check_name(message.name)
        except ValueError as error:
            raise RelayRefused("malformed", str(error)) from None
        email = message.email or ""
        if email and (email.count("@") != 1 or not email.isprintable() or " " in email):
            raise RelayRefused("malformed", "that is no email address")
        try:
            await self.make_account(message.key, message.name, email, message.invite)
        except RelayRefused as refusal:
            if refusal.code != "bad_invite" or message.invite is None or self.ask_peers is None:
                raise
            asked = PeerRegister(key=message.key, name=message.name, code=message.invite)
            await self.merge([await self.ask_peers(asked)])
        self.counts["registrations"] += 1
        self.accounts.admit(message.key)  # not_verified: the owner will look at it

    async def make_account(
        self, key: bytes, name: str, email: str, invite: bytes | None
    ) -> Account:
        """What `key` has now. Raises: `RelayRefused`: `bad_invite`: it is none of ours, ..."""
        async with self._changing:  # one at a time, so that the maxima hold
            account = self.accounts.application(key, name, email, invited=invite is not None)

            def job(store: Store) -> Account | str:
                if invite is not None and not store.use_invite(invite):
                    return "bad_invite"
                return store.put_account(account, over_denied=False) or "denied"

            made = await self.writer.write(job)
            if isinstance(made, str):
                raise RelayRefused(made)
            self.accounts.put(made)
        self.on_news()
        return made

    # -- what is asked

    async def answer(self, key: bytes, message: FromNode, address: str = "") -> Any:
        """The value of `Done`; `address`: where it came from. Raises: `RelayRefused`."""
        now = trio.current_time()
        self.accounts.admit(key)
        match message:
            case Send(to=to, re=re, body=body):
                self._allowances.charge(key, "send", now)
                if to == APPLY_KEY:
                    self.on_applied(key, re, body)
                    return None
                return await self.mail.send(key, message)
            case ShowPlate() | FindPlate() | Pair():
                return await self._of_pairing(key, message, address, now)
            case Ack(number=number):
                await self.mail.take(key, number)
                return self.lines.taken(key, number)
            case Announce(announcement=data):
                self._allowances.charge(key, "announce", now)
                try:
                    announcement = decode_announcement(data)
                except RemoteProtocolError as error:
                    raise RelayRefused("malformed", str(error)[:200]) from None
                self.catalogue.announce(key, announcement, now)
                self.counts["announcements"] += 1
                self.peers.announced(key)
                return self.on_news()
            case Withdraw():
                self.catalogue.withdraw(key)
                self.peers.withdrawn(key)
                return self.on_news()
            case wire.Catalogue(after=after):
                self._allowances.charge(key, "ask", now)
                return [list(entry) for entry in self.catalogue.seen_by(key, after, now)]
            case Find(node=node, grant=grant):
                self._allowances.charge(key, "ask", now)
                return list(self.catalogue.find(key, node, grant, now))
        raise RelayRefused("malformed", "logged in already")

    async def _of_pairing(
        self, key: bytes, message: ShowPlate | FindPlate | Pair, address: str, now: float
    ) -> Any:
        match message:
            case ShowPlate(plate=None):
                self._plates.take_back(key)
            case ShowPlate(plate=int(plate), kept_s=kept_s):
                self._allowances.charge(key, "show", now)
                self._plates.show(key, plate, min(kept_s, PLATE_KEPT_S), now)
                self.counts["plates_shown"] += 1
            case FindPlate(plate=plate):
                self._charge_plate(key, address, now)
                found = self.accounts.admit(self._plates.find(plate, now))
                return [found.key, found.name]
            case Pair():
                self._allowances.charge(key, "send", now)
                try:
                    self._plates.admit(key, message.to, message.plate, now)
                except RelayRefused:
                    self._charge_plate(key, address, now)  # this, too, is a try of a plate
                    raise
                await self.mail.send(key, message)
        return None

    def _charge_plate(self, key: bytes, address: str, now: float) -> None:
        """Whoever tries one plate after the other could burn the codes that are shown there."""
        self._allowances.charge(key, "plate", now)
        self._allowances.charge(address.encode(), "plates", now)
        self.counts["plates_looked_up"] += 1

    # -- calls by HTTP (apply.py)

    def charge(self, who: bytes, kind: str) -> None:
        """One more of that kind. Raises: `RelayRefused`."""
        self._allowances.charge(who, kind, trio.current_time())

    def seen(self, node: bytes | str, holder: bytes, grant: bytes) -> list[bytes]:
        """The nodes of that key, or name, that this holder of a grant may see."""
        now = trio.current_time()
        keys = self.catalogue.called(node, now) if isinstance(node, str) else [node]
        found = []
        for key in keys:
            with suppress(RelayRefused):
                self.catalogue.find(holder, key, grant, now)
                found.append(key)
        return found

    async def is_here(self, key: bytes, wait_s: float) -> bool:
        """Whether it has a line, now or soon: who polls has none in between."""
        with trio.move_on_after(wait_s):
            await self.lines.wait_open(key)
        return key in self.lines

    def elsewhere(self, key: bytes) -> str:
        """The address of the relay that has it, when it is not here; or ""."""
        peer = None if key in self.lines else self.peers.at(key)
        return self.peer_urls.get(peer, "") if peer is not None else ""

    async def hand_on(self, to: bytes, ident: bytes, body: bytes) -> None:
        """A PUT, for a node that is here. Raises: `RelayRefused`."""
        await self.mail.put(to, ident, body)

    # -- lines

    def line(self, key: bytes, after: int = 0) -> AbstractContextManager[Line]:
        """A place to wait for what comes for `key`, behind the number `after`.

        Raises: `RelayRefused`.
        """
        self.accounts.admit(key)
        return self.lines.open(key, after)

    def _came(self, key: bytes) -> None:
        self.peers.came(key)
        self.on_news()

    def _left(self, key: bytes) -> None:
        self.peers.left(key, trio.current_time())
        self.on_news()

    def _arrived(self, to: bytes, from_here: bool) -> None:
        self.lines.wake(to)
        if from_here and self.peers.wanted(to):
            self.on_news()
