"""What the relay does with each message, whichever way it came.

    relay = Relay(store, names=("relay.example.org",), entropy=os.urandom)
    nursery.start_soon(relay.run)
    key = await relay.enter(Login | Register, nonce, address)     # raises RelayRefused
    value = await relay.answer(key, message)                      # raises RelayRefused
    with relay.line(key) as line:                                 # what its mailbox holds
        messages = await line.next(); line.taken(number)

Joins the decisions of `core/relay.py` with the store and with who is connected.

Rules
- `Send` is answered when its message is durable; the recipient's lines are woken by then.
- An account that is no longer approved is cut off within CHANGES_S: its lines end, and its mailbox
  goes.
- What two lines of one account get is the same; who takes it first, takes it from both.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import trio

from drupelet.core.plates import Plates
from drupelet.core.relay import RATES, Account, Accounts, Allowances, Catalogue, Mailboxes, Rate
from drupelet.errors import RemoteProtocolError
from drupelet.relay.store import Gone, Message, Store, receipt_of
from drupelet.relay.writing import Writer
from drupelet.wire import relay as wire
from drupelet.wire.announcements import RUN_BYTES, decode_announcement
from drupelet.wire.ids import check_name
from drupelet.wire.limits import (
    RELAY_LINKS_MAX,
    RELAY_LINKS_PER_ACCOUNT_MAX,
    RELAY_MESSAGE_BYTES_MAX,
    RELAY_WINDOW_MESSAGES,
)
from drupelet.wire.relay import (
    APPLY,
    APPLY_KEY,
    EXPIRED,
    MESSAGE,
    PAIRING,
    RECEIPT,
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

CHANGES_S: Final = 1.0  # how long the owner's word takes to be heard
TICK_S: Final = 600.0  # a write each, and messages that are over go
PLATE_KEPT_S: Final = 600  # the longest that a code may be shown
APPLY_KEPT_S: Final = 60  # a PUT: nobody waits longer
PAIR_KEPT_S: Final = 60  # words of a pairing: nobody waits longer
_LINE_BYTES: Final = RELAY_MESSAGE_BYTES_MAX  # read ahead for one line: one large message, or many

log = logging.getLogger(__name__)


def _nobody(node: bytes, re: bytes | None, body: bytes) -> None:
    """Nobody waits."""


class Line:
    """One connection of an account, as its mailbox sees it."""

    def __init__(self, key: bytes, relay: Relay, after: int) -> None:
        self.key = key
        self.ended = False
        self._relay = relay
        self._after = after
        self._under_way: list[int] = []
        self._wake = trio.Event()
        self._look = True

    def wake(self) -> None:
        """There may be something."""
        self._look = True
        self._wake.set()

    def end(self) -> None:
        """The account has another line instead, or is no more."""
        self.ended = True
        self._wake.set()

    def taken(self, number: int) -> None:
        """The node has all up to `number`: there is room under way."""
        self._under_way = [sent for sent in self._under_way if sent > number]
        self._wake.set()

    async def now(self) -> list[Message]:
        """What is there already, as far as there is room under way."""
        room = RELAY_WINDOW_MESSAGES - len(self._under_way)
        if not self._look or room <= 0 or self.ended:
            return []
        self._look = False
        messages = await self._relay.read(self.key, self._after, room, _LINE_BYTES)
        if messages:
            self._look = True  # there may be more behind them
            self._after = messages[-1].number
            self._under_way += [message.number for message in messages]
        return messages

    async def next(self) -> list[Message]:
        """Waits for messages. Empty: the line has ended."""
        while not self.ended:
            self._wake = trio.Event()
            messages = await self.now()
            if messages:
                return messages
            if not self.ended:
                await self._wake.wait()
        return []


class Relay:
    """All of it, but for sockets."""

    def __init__(
        self,
        store: Store,
        *,
        names: Iterable[str],
        entropy: Callable[[int], bytes],
        rates: Mapping[str, Rate] = RATES,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.names = frozenset(names)
        self.writer = Writer(store)
        self._store = store
        self._accounts = Accounts(store.accounts())
        self._catalogue = Catalogue(entropy(RUN_BYTES))
        self._mailboxes = Mailboxes()
        self._plates = Plates()
        self._allowances = Allowances({**RATES, **rates})
        self._lines: dict[bytes, list[Line]] = {}
        self._line_count = 0
        self._opened = trio.Event()  # a new one for each line
        self.on_applied: Callable[[bytes, bytes | None, bytes], None] = _nobody
        self._registering = trio.Lock()
        self._started = trio.current_time()
        for sender, recipient, size in store.waiting():
            self._mailboxes.restore(sender, recipient, size)

    @property
    def run_id(self) -> bytes:
        """What announcements must name."""
        return self._catalogue.run

    def gauges(self) -> dict[str, int]:
        """What there is now."""
        self._catalogue.expire(trio.current_time())
        return {
            "accounts": len(self._accounts),
            "announced_nodes": len(self._catalogue),
            "lines": self._line_count,
            "plates": len(self._plates),
            "waiting_messages": self._mailboxes.total,
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
        self._accounts.load(await self.writer.read(lambda store: store.accounts()))
        unwelcome = {*self._lines, *self._mailboxes.recipients(), *self._plates.keys()}
        for key in [key for key in unwelcome if not self._accounts.may_receive(key)]:
            for line in self._lines.get(key, ()):
                line.end()
            self._catalogue.withdraw(key)
            self._plates.take_back(key)
            await self._clear(key)

    async def _clear(self, key: bytes) -> None:
        self._release(await self.writer.write(lambda store: store.clear(key)))

    async def _tick(self) -> None:
        while True:
            await self.expire()
            await trio.sleep(TICK_S)

    async def expire(self) -> None:
        """Messages that are over go; their senders are told if they asked."""
        served_s = self._served_s()
        while gone := await self.writer.write(lambda store: store.expire(served_s)):
            self._release(gone)
            self.counts["messages_expired"] += len(gone)
            await self._tell(gone, EXPIRED)
        await self.writer.write(lambda store: store.tick(served_s))

    def _served_s(self) -> int:
        return self._store.served_s(trio.current_time() - self._started)

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
                self._accounts.admit(key)
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
        invite, key = message.invite, message.key
        async with self._registering:  # one at a time, so that the maxima hold
            account = self._accounts.application(
                key, message.name, email, invited=invite is not None
            )

            def job(store: Store) -> Account | str:
                if invite is not None and not store.use_invite(invite):
                    return "bad_invite"
                return store.put_account(account, over_denied=False) or "denied"

            made = await self.writer.write(job)
            if isinstance(made, str):
                raise RelayRefused(made)
            self._accounts.put(made)
        self.counts["registrations"] += 1
        self._accounts.admit(key)  # not_verified: the owner will look at it

    # -- what is asked

    async def answer(self, key: bytes, message: FromNode, address: str = "") -> Any:
        """The value of `Done`; `address`: where it came from. Raises: `RelayRefused`."""
        now = trio.current_time()
        self._accounts.admit(key)
        match message:
            case Send(to=to, re=re, body=body):
                self._allowances.charge(key, "send", now)
                if to == APPLY_KEY:
                    self.on_applied(key, re, body)
                    return None
                return await self._send(key, message, MESSAGE)
            case ShowPlate() | FindPlate() | Pair():
                return await self._of_pairing(key, message, address, now)
            case Ack(number=number):
                return await self._take(key, number)
            case Announce(announcement=data):
                self._allowances.charge(key, "announce", now)
                try:
                    announcement = decode_announcement(data)
                except RemoteProtocolError as error:
                    raise RelayRefused("malformed", str(error)[:200]) from None
                self._catalogue.announce(key, announcement, now)
                self.counts["announcements"] += 1
                return None
            case Withdraw():
                self._catalogue.withdraw(key)
                return None
            case wire.Catalogue(after=after):
                self._allowances.charge(key, "ask", now)
                return [list(entry) for entry in self._catalogue.seen_by(key, after, now)]
            case Find(node=node, grant=grant):
                self._allowances.charge(key, "ask", now)
                return list(self._catalogue.find(key, node, grant, now))
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
                found = self._accounts.admit(self._plates.find(plate, now))
                return [found.key, found.name]
            case Pair():
                self._allowances.charge(key, "send", now)
                try:
                    self._plates.admit(key, message.to, message.plate, now)
                except RelayRefused:
                    self._charge_plate(key, address, now)  # this, too, is a try of a plate
                    raise
                await self._send(key, message, PAIRING)
        return None

    def _charge_plate(self, key: bytes, address: str, now: float) -> None:
        """Whoever tries one plate after the other could burn the codes that are shown there."""
        self._allowances.charge(key, "plate", now)
        self._allowances.charge(address.encode(), "plates", now)
        self.counts["plates_looked_up"] += 1

    async def _send(self, key: bytes, said: Send | Pair, kind: int) -> None:
        if not self._accounts.may_receive(said.to):
            raise RelayRefused("not_found")
        size = len(said.body)
        self._mailboxes.admit(key, said.to, size)
        message = Message(
            recipient=said.to,
            sender=key,
            kind=kind,
            id=said.id,
            re=said.re,
            receipt=isinstance(said, Send) and said.receipt,
            until=self._served_s() + (said.kept_s if isinstance(said, Send) else PAIR_KEPT_S),
            body=said.body,
        )
        counted = True
        try:
            # Shielded: when a sender hangs up, the count must still agree with the disk.
            with trio.CancelScope(shield=True):
                counted = await self.writer.write(lambda store: store.add(message))
        except RelayRefused:
            counted = False
            raise
        finally:
            if not counted:
                self._mailboxes.release(key, said.to, size)
        if counted:
            self.counts["messages_accepted"] += 1
            self.counts["bytes_accepted"] += size
            log.debug(
                "accepted id=%s re=%s from=%s to=%s bytes=%d",
                *(said.id.hex(), said.re.hex() if said.re is not None else "none"),
                *(key.hex()[:16], said.to.hex()[:16], size),
            )
            self._wake(said.to)

    # -- calls by HTTP (apply.py)

    def charge(self, who: bytes, kind: str) -> None:
        """One more of that kind. Raises: `RelayRefused`."""
        self._allowances.charge(who, kind, trio.current_time())

    def seen(self, node: bytes | str, holder: bytes, grant: bytes) -> list[bytes]:
        """The nodes of that key, or name, that this holder of a grant may see."""
        now = trio.current_time()
        keys = self._catalogue.called(node, now) if isinstance(node, str) else [node]
        found = []
        for key in keys:
            with suppress(RelayRefused):
                self._catalogue.find(holder, key, grant, now)
                found.append(key)
        return found

    async def is_here(self, key: bytes, wait_s: float) -> bool:
        """Whether it has a line, now or soon: who polls has none in between."""
        with trio.move_on_after(wait_s):
            while key not in self._lines:
                await self._opened.wait()
        return key in self._lines

    async def hand_on(self, to: bytes, ident: bytes, body: bytes) -> None:
        """A PUT, for a node that is here. Raises: `RelayRefused`."""
        put = Send(ref=0, to=to, id=ident, re=None, kept_s=APPLY_KEPT_S, receipt=False, body=body)
        await self._send(APPLY_KEY, put, APPLY)

    async def _take(self, key: bytes, number: int) -> None:
        with trio.CancelScope(shield=True):
            gone = await self.writer.write(lambda store: store.take(key, number))
            self._release(gone)
            self.counts["messages_taken"] += len(gone)
            log.debug("taken by=%s up_to=%d messages=%d", key.hex()[:16], number, len(gone))
            for line in self._lines.get(key, ()):
                line.taken(number)
            await self._tell(gone, RECEIPT)

    async def _tell(self, gone: list[Gone], kind: int) -> None:
        """Receipts, where they were asked for and there is room."""
        served_s = self._served_s()
        receipts = []
        for one in gone:
            receipt = receipt_of(one, kind, served_s)
            if receipt is None or not self._accounts.may_receive(receipt.recipient):
                continue
            if self._mailboxes.has_room(receipt.sender, receipt.recipient, 0):
                receipts.append(receipt)
        if not receipts:
            return

        def job(store: Store) -> list[bool]:
            return [store.add(receipt) for receipt in receipts]

        for receipt, added in zip(receipts, await self.writer.write(job), strict=True):
            if not added:
                self._mailboxes.release(receipt.sender, receipt.recipient, 0)
            self._wake(receipt.recipient)

    def _release(self, gone: list[Gone]) -> None:
        for one in gone:
            self._mailboxes.release(one.sender, one.recipient, one.size)

    # -- lines

    @contextmanager
    def line(self, key: bytes, after: int = 0) -> Iterator[Line]:
        """A place to wait for what comes for `key`, behind the number `after`.

        Raises: `RelayRefused`.
        """
        self._accounts.admit(key)
        if self._line_count >= RELAY_LINKS_MAX:
            raise RelayRefused("busy", "too many nodes", 5.0)
        lines = self._lines.setdefault(key, [])
        if len(lines) >= RELAY_LINKS_PER_ACCOUNT_MAX:
            lines[0].end()
            self._forget(lines[0])
            lines = self._lines.setdefault(key, [])
        line = Line(key, self, after)
        lines.append(line)
        self._line_count += 1
        self._opened.set()
        self._opened = trio.Event()
        try:
            yield line
        finally:
            self._forget(line)

    def _forget(self, line: Line) -> None:
        lines = self._lines.get(line.key, [])
        if line in lines:
            lines.remove(line)
            self._line_count -= 1
        if not lines:
            self._lines.pop(line.key, None)

    def _wake(self, key: bytes) -> None:
        for line in self._lines.get(key, ()):
            line.wake()

    async def read(self, key: bytes, after: int, count: int, size: int) -> list[Message]:
        """Messages for `key`; broken ones go."""
        messages, broken = await self.writer.read(lambda store: store.read(key, after, count, size))
        if broken:
            log.warning("%d messages on the disk do not hold; they are dropped", len(broken))
            self.counts["messages_corrupt"] += len(broken)
            self._release(await self.writer.write(lambda store: store.drop(key, broken)))
        self.counts["messages_delivered"] += len(messages)
        for message in messages:
            log.debug("delivered id=%s to=%s", message.id.hex(), key.hex()[:16])
        return messages
