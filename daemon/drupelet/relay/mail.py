"""Mail: what lies in the mailboxes, from `Send` until it is taken, handed to a peer, or over.

    await mail.send(key, said)                      # durable; raises RelayRefused
    await mail.take(key, number)
    refusals = await mail.take_over(messages)       # of a peer; durable
    messages = await mail.to_hand_over(to, count, size); await mail.handed_over(messages)

Joins the quotas of `core/relay.py` with the store. The count of a mailbox agrees with the disk
whoever is cancelled.

Rules
- `send` and `take_over` return when the message is durable; `arrived` hears of it by then.
- A receipt is a message like others: it waits in the sender's mailbox, or moves to a peer.
- What is handed over is forgotten here only after the peer has it: never lost, perhaps twice there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import trio

from drupelet.core.relay import Accounts, Mailboxes
from drupelet.relay.store import Gone, Message, Store, receipt_of
from drupelet.relay.writing import Writer
from drupelet.wire.relay import (
    APPLY,
    APPLY_KEY,
    EXPIRED,
    MESSAGE,
    PAIRING,
    RECEIPT,
    Pair,
    RelayRefused,
    Send,
)
from drupelet.wire.relay_peers import PeerMail

APPLY_KEPT_S: Final = 60  # a PUT: nobody waits longer
PAIR_KEPT_S: Final = 60  # words of a pairing: nobody waits longer

log = logging.getLogger(__name__)


class Mail:
    """All mailboxes. `arrived` is told whose got something."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        accounts: Accounts,
        counts: Counter[str],
        arrived: Callable[[bytes, bool], None],
    ) -> None:
        self._store = store
        self._writer = writer
        self._accounts = accounts
        self._counts = counts
        self._arrived = arrived
        self._mailboxes = Mailboxes()
        self._started = trio.current_time()
        for sender, recipient, size in store.waiting():
            self._mailboxes.restore(sender, recipient, size)

    @property
    def total(self) -> int:
        """Messages that wait."""
        return self._mailboxes.total

    def recipients(self) -> list[bytes]:
        """Whose mailbox is not empty."""
        return self._mailboxes.recipients()

    def waits(self, key: bytes) -> bool:
        """Whether there is anything for `key`."""
        return any(self._mailboxes.waiting(key))

    def served_s(self) -> int:
        """What a message's time is counted in."""
        return self._store.served_s(trio.current_time() - self._started)

    # -- of nodes

    async def send(self, key: bytes, said: Send | Pair) -> None:
        """A message of `key`. Raises: `RelayRefused`."""
        await self._send(key, said, MESSAGE if isinstance(said, Send) else PAIRING)

    async def put(self, to: bytes, ident: bytes, body: bytes) -> None:
        """A PUT for a node that is here. Raises: `RelayRefused`."""
        said = Send(ref=0, to=to, id=ident, re=None, kept_s=APPLY_KEPT_S, receipt=False, body=body)
        await self._send(APPLY_KEY, said, APPLY)

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
            until=self.served_s() + (said.kept_s if isinstance(said, Send) else PAIR_KEPT_S),
            body=said.body,
        )
        if await self._add([message]):
            self._counts["messages_accepted"] += 1
            self._counts["bytes_accepted"] += size
            log.debug(
                "accepted id=%s re=%s from=%s to=%s bytes=%d",
                *(said.id.hex(), said.re.hex() if said.re is not None else "none"),
                *(key.hex()[:16], said.to.hex()[:16], size),
            )
            self._arrived(said.to, True)

    async def _add(self, messages: Sequence[Message]) -> list[Message]:
        """Those of the admitted `messages` that were not there; durable. Raises: `RelayRefused`."""
        added = [False] * len(messages)

        def job(store: Store) -> list[bool]:
            return [store.add(message) for message in messages]

        # Shielded: when a sender hangs up, the count must still agree with the disk.
        with trio.CancelScope(shield=True):
            try:
                added = await self._writer.write(job)
            finally:
                for one, is_new in zip(messages, added, strict=True):
                    if not is_new:
                        self._mailboxes.release(one.sender, one.recipient, len(one.body))
        return [one for one, is_new in zip(messages, added, strict=True) if is_new]

    async def take(self, key: bytes, number: int) -> None:
        """`key` has all up to `number`."""
        with trio.CancelScope(shield=True):
            gone = await self._writer.write(lambda store: store.take(key, number))
            self._release(gone)
            self._counts["messages_taken"] += len(gone)
            log.debug("taken by=%s up_to=%d messages=%d", key.hex()[:16], number, len(gone))
            await self._tell(gone, RECEIPT)

    async def _tell(self, gone: list[Gone], kind: int) -> None:
        """Receipts, where they were asked for and there is room."""
        served_s = self.served_s()
        receipts = []
        for one in gone:
            receipt = receipt_of(one, kind, served_s)
            if receipt is None or not self._accounts.may_receive(receipt.recipient):
                continue
            if self._mailboxes.has_room(receipt.sender, receipt.recipient, 0):
                receipts.append(receipt)
        if receipts:
            await self._add(receipts)
            for receipt in receipts:
                self._arrived(receipt.recipient, True)

    def _release(self, gone: list[Gone]) -> None:
        for one in gone:
            self._mailboxes.release(one.sender, one.recipient, one.size)

    async def read(self, key: bytes, after: int, count: int, size: int) -> list[Message]:
        """Messages for `key`, to be delivered."""
        messages = await self._read(key, after, count, size)
        self._counts["messages_delivered"] += len(messages)
        for message in messages:
            log.debug("delivered id=%s to=%s", message.id.hex(), key.hex()[:16])
        return messages

    async def _read(self, key: bytes, after: int, count: int, size: int) -> list[Message]:
        """Messages for `key`; broken ones go."""
        messages, broken = await self._writer.read(
            lambda store: store.read(key, after, count, size)
        )
        if broken:
            log.warning("%d messages on the disk do not hold; they are dropped", len(broken))
            self._counts["messages_corrupt"] += len(broken)
            self._release(await self._writer.write(lambda store: store.drop(broken)))
        return messages

    # -- of the owner, and of time

    async def clear(self, key: bytes) -> None:
        """`key` has no account any more."""
        if self.waits(key):
            self._release(await self._writer.write(lambda store: store.clear(key)))

    async def expire(self) -> None:
        """Messages that are over go; their senders are told if they asked."""
        served_s = self.served_s()
        while gone := await self._writer.write(lambda store: store.expire(served_s)):
            self._release(gone)
            self._counts["messages_expired"] += len(gone)
            await self._tell(gone, EXPIRED)
        await self._writer.write(lambda store: store.tick(served_s))

    # -- of a peer

    async def take_over(self, handed: Sequence[PeerMail]) -> list[str]:
        """For each message the code of a refusal, or empty: it is durable here."""
        served_s = self.served_s()
        refusals: list[str] = []
        messages: list[Message] = []
        for said in handed:
            try:
                if not self._accounts.may_receive(said.to):
                    raise RelayRefused("not_found")
                self._mailboxes.admit(said.sender, said.to, len(said.body))
            except RelayRefused as refusal:
                refusals.append(refusal.code)
                continue
            refusals.append("")
            messages.append(
                Message(
                    recipient=said.to,
                    sender=said.sender,
                    kind=said.kind,
                    id=said.id,
                    re=said.re,
                    receipt=said.receipt,
                    until=served_s + said.left_s,
                    body=said.body,
                )
            )
        if messages:
            new = await self._add(messages)
            self._counts["messages_taken_over"] += len(new)
            for message in new:
                log.debug("taken_over id=%s to=%s", message.id.hex(), message.recipient.hex()[:16])
            for to in {message.recipient for message in new}:
                self._arrived(to, False)
        return refusals

    async def to_hand_over(self, to: bytes, count: int, size: int) -> list[tuple[int, PeerMail]]:
        """The oldest messages for `to`, each with its number here."""
        served_s = self.served_s()
        after, found = 0, list[tuple[int, PeerMail]]()
        while not found:
            messages = await self._read(to, after, count, size)
            if not messages:
                break
            after = messages[-1].number
            # Who is over is for `expire`; who waits for a PUT waits here, and not at the peer.
            found = [
                (message.number, _to_peer(message, served_s))
                for message in messages
                if message.until > served_s and message.kind != APPLY
            ]
        return found

    async def handed_over(self, numbers: Sequence[int]) -> None:
        """A peer has them."""
        with trio.CancelScope(shield=True):
            gone = await self._writer.write(lambda store: store.drop(numbers))
            self._release(gone)
            self._counts["messages_handed_over"] += len(gone)


def _to_peer(message: Message, served_s: int) -> PeerMail:
    return PeerMail(
        to=message.recipient,
        sender=message.sender,
        kind=message.kind,
        id=message.id,
        re=message.re,
        receipt=message.receipt,
        left_s=message.until - served_s,
        body=message.body,
    )
