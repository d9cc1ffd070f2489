"""The other relays: one connection to each, what they say on theirs, and how it stands.

    peering = Peering(relay, config.peers, identity, entropy=os.urandom)
    nursery.start_soon(peering.run)
    welcome = peering.welcome(login, nonce, address)     # raises RelayRefused
    body = await peering.hear(session, body)             # raises RelayRefused, RemoteProtocolError

Drives `core/relay_peers.py`. Each relay tells, by the connection that it opened; the other answers,
and tells by its own.

Rules
- An answer `Done` for accounts and mail means that they are durable.
- What the other does not answer is told again on the next connection; mail is forgotten here only
  after its `Done`.
- A connection that fails is tried again for ever; when the other one comes to us, at once.
- Its announcements are shown as long as they are its nodes' own words over its run, which it proved
  with its key; its word on accounts counts where the configuration says so.

Owns: a task for each relay of the configuration, one for what is due, one that writes down how it
stands, for the owner. Cancellation: at any time; nothing that was answered is lost.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import trio

from drupelet.core.backoff import Backoff
from drupelet.core.relay import Account, Standing
from drupelet.core.relay_peers import BEAT_S, Told, of_peer, to_peer
from drupelet.errors import RemoteProtocolError
from drupelet.relay.config import PeerConfig
from drupelet.relay.peer_http import PeerGone, PeerHttp, connect, host_of
from drupelet.relay.service import Relay
from drupelet.relay.store import Store
from drupelet.store.identity import Identity
from drupelet.toml_text import printable
from drupelet.wire.announcements import decode_announcement
from drupelet.wire.limits import RELAY_ACCOUNTS_MAX, RELAY_PEER_QUESTIONS_MAX
from drupelet.wire.relay import (
    NONCE_BYTES,
    SESSION_BYTES,
    Done,
    Hello,
    Refused,
    RelayRefused,
    check_proof,
    decode_from_relay,
    refused,
)
from drupelet.wire.relay_peers import (
    PURPOSE,
    Answer,
    Batch,
    PeerAccount,
    PeerAnnounce,
    PeerLogin,
    PeerMail,
    PeerMessage,
    PeerPresent,
    PeerRegister,
    PeerWithdraw,
    Welcome,
    decode_account,
    decode_answers,
    decode_batch,
    encode_answers,
    encode_batch,
    encode_peer,
    keys_in,
    open_welcome,
    peer_login,
    welcome_proof,
)

FIRST_PAUSE_S: Final = 0.5
LAST_PAUSE_S: Final = 10.0
QUESTION_S: Final = 10.0  # for an invite that only a peer may know
STATE_S: Final = 5.0  # how old what the owner is shown may be
_MAIL_BYTES: Final = 65_536  # of one batch, and the message that goes beyond it
_MAIL_COUNT: Final = 64
_QUESTIONS: Final = 16  # of one batch
_STATE_CHARS: Final = 200
IN_STEP: Final = "in step"
CONNECTING: Final = "connecting"

log = logging.getLogger(__name__)


class _Question:
    """One that a task of ours waits for."""

    def __init__(self, message: PeerRegister) -> None:
        self.message = message
        self.answer: Answer | None = None  # also when the connection has ended
        self.done = trio.Event()


class _Link:
    """Our connection to one of them."""

    def __init__(self, config: PeerConfig) -> None:
        self.config = config
        self.wake = trio.Event()  # there is something to tell
        self.knock = trio.Event()  # it came to us, so it is there
        self.questions: list[_Question] = []
        self.up = False
        self.problem = ""
        self.session = b""  # of its connection to us
        self.hearing = trio.Lock()


class Peering:
    """All of them."""

    def __init__(
        self,
        relay: Relay,
        configs: Sequence[PeerConfig],
        identity: Identity,
        *,
        entropy: Callable[[int], bytes],
        random: Callable[[], float],
    ) -> None:
        self._relay = relay
        self._identity = identity
        self._entropy = entropy
        self._random = random
        self._links = {config.key: _Link(config) for config in configs}
        self._due = trio.Event()
        self._stands = trio.Event()  # otherwise than before, perhaps
        relay.on_news = self._news
        relay.peer_urls = {config.key: config.url for config in configs}
        if any(config.accounts for config in configs):
            relay.ask_peers = self.ask

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for link in self._links.values():
                nursery.start_soon(self._keep, link)
            nursery.start_soon(self._timers)
            nursery.start_soon(self._write_states)

    def _news(self) -> None:
        self._due.set()
        for link in self._links.values():
            link.wake.set()

    async def _timers(self) -> None:
        while True:
            self._due = trio.Event()
            for key in self._relay.peers.handle_timer(trio.current_time()):
                if self._relay.mail.waits(key):
                    self._relay.peers.wanted(key)
            for link in self._links.values():
                link.wake.set()
            with trio.move_on_at(self._relay.peers.next_timer()):
                await self._due.wait()

    # -- how it stands

    def states(self) -> list[tuple[bytes, str, str]]:
        """(key, address, how it stands) of each."""
        return [(key, link.config.url, self._state(key, link)) for key, link in self._links.items()]

    def _state(self, key: bytes, link: _Link) -> str:
        if not link.up:
            return printable(f"away: {link.problem}"[:_STATE_CHARS]) if link.problem else CONNECTING
        if not self._relay.peers[key].hears(trio.current_time()):
            return "we reach it, but it does not come to us: look at its log"
        return IN_STEP

    async def _write_states(self) -> None:
        written: list[tuple[bytes, str, str]] = []
        while True:
            self._stands = trio.Event()
            states = self.states()
            if states != written:
                for key, url, state in states:
                    if (key, url, state) not in written:
                        log.info("peer url=%s state=%r", url, state)
                with suppress(RelayRefused):  # the disk does not keep up: the next time
                    await self._relay.writer.write(partial(Store.put_peers, peers=states))
                    written = states
            with trio.move_on_after(STATE_S):
                await self._stands.wait()

    # -- our connection

    async def _keep(self, link: _Link) -> None:
        backoff = Backoff(FIRST_PAUSE_S, LAST_PAUSE_S, self._random)
        peers, key = self._relay.peers, link.config.key
        while True:
            link.knock = trio.Event()
            try:
                async with connect(link.config.url, link.config.ca_file) as http:
                    welcome = await self._login(link, http)
                    waiting = self._relay.mail.recipients()
                    peers.linked(key, welcome.number, self._relay.catalogue.own_keys(), waiting)
                    link.up = True
                    self._stands.set()
                    backoff.reset()
                    await self._talk(link, http, welcome.session)
            except (PeerGone, RelayRefused, RemoteProtocolError) as error:
                link.problem = str(error)
            finally:
                link.up = False
                self._stands.set()
                peers.unlinked(key)
                for question in link.questions:
                    question.done.set()
                link.questions.clear()
            with trio.move_on_after(backoff.next_delay_s()):
                await link.knock.wait()

    async def _login(self, link: _Link, http: PeerHttp) -> Welcome:
        _, body = await http.ask("GET", "/v1/hello")
        hello = decode_from_relay(body)
        if not isinstance(hello, Hello):
            raise PeerGone("no relay answers there")
        nonce, own = self._entropy(NONCE_BYTES), self._identity.public_key
        login = peer_login(
            self._identity.seed,
            own,
            host_of(link.config.url),
            hello.nonce,
            nonce,
            self._relay.run_id,
        )
        _, body = await http.ask(
            "POST", "/v1/peer/login", login, {"drupelet-nonce": hello.nonce.hex()}
        )
        return open_welcome(_done(body), link.config.key, own, nonce)

    async def _talk(self, link: _Link, http: PeerHttp, session: bytes) -> None:
        relay, key = self._relay, link.config.key
        headers = {"authorization": f"Bearer {session.hex()}"}
        answered_at = trio.current_time()
        while True:
            link.wake = trio.Event()
            now = trio.current_time()
            told = relay.peers.batch(key, relay.accounts, relay.catalogue, now)
            mail = await self._mail(key)
            asked = link.questions[:_QUESTIONS]
            messages = [one.data for one in told]
            messages += [encode_peer(said) for _, said in mail]
            messages += [encode_peer(question.message) for question in asked]
            if not messages and now < answered_at + BEAT_S:
                with trio.move_on_at(answered_at + BEAT_S):
                    await link.wake.wait()
                continue
            batch = encode_batch(int((now - answered_at) * 1_000), messages)
            status, body = await http.ask("POST", "/v1/peer", batch, headers)
            if status != 200:
                _done(body)
                raise PeerGone(f"status {status}")
            answered_at = trio.current_time()
            answers = decode_answers(body, len(messages))
            first, last = len(told), len(told) + len(mail)
            for one, answer in zip(told, answers[:first], strict=True):
                self._answered(key, one, answer)
            await self._handed_over(key, mail, answers[first:last])
            for question, answer in zip(asked, answers[last:], strict=True):
                link.questions.remove(question)
                question.answer = answer
                question.done.set()

    def _answered(self, key: bytes, told: Told, answer: Answer) -> None:
        refusal = _code(answer)
        if refusal and isinstance(told.message, PeerAccount):
            log.warning("a peer does not take an account: %s, ignoring", refusal)
        self._relay.peers.answered(key, told, refusal)

    async def _mail(self, key: bytes) -> list[tuple[int, PeerMail]]:
        """What to hand over next, each with its number here."""
        relay, found = self._relay, list[tuple[int, PeerMail]]()
        size = _MAIL_BYTES
        while size > 0 and len(found) < _MAIL_COUNT:
            to = relay.peers.next_mail(key)
            if to is None:
                break
            mail = await relay.mail.to_hand_over(to, _MAIL_COUNT - len(found), size)
            if not mail:
                relay.peers.empty(key, to)
            elif relay.peers.may_move(key, to, mail[0][0], trio.current_time()):
                found += mail
                size -= sum(len(said.body) for _, said in mail)
        return found

    async def _handed_over(
        self, key: bytes, mail: list[tuple[int, PeerMail]], answers: Sequence[Answer]
    ) -> None:
        refusals: dict[bytes, str] = {}
        taken = []
        for (number, said), answer in zip(mail, answers, strict=True):
            refusal = _code(answer)
            refusals[said.to] = refusals.get(said.to, "") or refusal
            log.debug(
                "handed_over id=%s to=%s answer=%s",
                said.id.hex(),
                said.to.hex()[:16],
                refusal or "ok",
            )
            if not refusal:
                taken.append(number)
        if taken:
            await self._relay.mail.handed_over(taken)
        for to, refusal in refusals.items():
            self._relay.peers.moved(key, to, refusal, trio.current_time())

    # -- an invite that is not ours

    async def ask(self, message: PeerRegister) -> Account:
        """The account that a peer made for an invite of its own. Raises: `RelayRefused`."""
        away = False
        for link in self._links.values():
            if not link.config.accounts:
                continue
            answer = await self._ask(link, message) if link.up else None
            if isinstance(answer, Refused) and answer.code not in ("bad_invite", "busy"):
                raise RelayRefused(answer.code, answer.text)
            if isinstance(answer, Done):
                account = _account(answer.value)
                if account is not None and account.key == message.key:
                    return account
            away = away or not isinstance(answer, Refused) or answer.code == "busy"
        if away:
            raise RelayRefused("busy", "the relay that may know this invite is away", 5.0)
        raise RelayRefused("bad_invite")

    async def _ask(self, link: _Link, message: PeerRegister) -> Answer | None:
        if len(link.questions) >= RELAY_PEER_QUESTIONS_MAX:
            raise RelayRefused("busy", "too many ask", 5.0)
        question = _Question(message)
        link.questions.append(question)
        link.wake.set()
        with trio.move_on_after(QUESTION_S):
            await question.done.wait()
        return question.answer

    # -- their connection

    def welcome(self, login: PeerLogin, nonce: bytes) -> Welcome:
        """The answer to a peer that proves its key over `nonce`. Raises: `RelayRefused`."""
        link = self._links.get(login.key)
        if link is None or login.audience not in self._relay.names:
            raise RelayRefused("denied", "this relay has another name, or does not know yours")
        try:
            check_proof(login.key, login.signature, PURPOSE, login.audience, nonce)
        except RemoteProtocolError:
            self._relay.counts["bad_signatures"] += 1
            raise RelayRefused("denied", "the signature does not hold") from None
        self._relay.catalogue.begin(login.key, login.run)
        link.session = self._entropy(SESSION_BYTES)
        link.knock.set()
        self._stands.set()
        return Welcome(
            session=link.session,
            proof=welcome_proof(self._identity.seed, login),
            number=self._relay.peers.entered(login.key, login.run, trio.current_time()),
        )

    async def hear(self, session: bytes, data: bytes) -> bytes:
        """The answers to a batch. Raises: `RelayRefused`, `RemoteProtocolError`."""
        batch = decode_batch(data)
        for key, link in self._links.items():
            if session and hmac.compare_digest(session, link.session):
                async with link.hearing:
                    if session == link.session:  # it has not begun anew meanwhile
                        return encode_answers(await self._hear(key, link, batch))
        raise RelayRefused("denied", "log in again")

    async def _hear(self, key: bytes, link: _Link, batch: Batch) -> list[Answer]:
        relay = self._relay
        late_s = relay.peers.heard(key, batch.idle_ms / 1_000, trio.current_time())
        codes = [""] * len(batch.messages)
        values: dict[int, Any] = {}
        accounts = self._accounts(key, link, batch.messages, codes)
        if accounts:
            await relay.merge(accounts)
        mail: list[tuple[int, PeerMail]] = []
        for place, said in enumerate(batch.messages):
            try:
                match said:
                    case PeerAccount(number=number):
                        relay.peers[key].number = max(relay.peers[key].number, number)
                    case PeerMail(to=to):
                        mail.append((place, said))
                        if to not in relay.peers.presence:
                            mail.pop()
                            raise RelayRefused("not_found")
                    case PeerRegister():
                        values[place] = await self._made(link, said)
                    case _:
                        self._hear_of_nodes(key, said, late_s)
            except RelayRefused as refusal:
                codes[place] = refusal.code
        refusals = await relay.mail.take_over([said for _, said in mail])
        for (place, _), code in zip(mail, refusals, strict=True):
            codes[place] = code
        relay.peers[key].answered_at = trio.current_time()
        return [
            refused(place, RelayRefused(code)) if code else Done(ref=place, value=values.get(place))
            for place, code in enumerate(codes)
        ]

    def _accounts(
        self, key: bytes, link: _Link, messages: Sequence[PeerMessage], codes: list[str]
    ) -> list[Account]:
        """Those that are taken over; for the others there is no room, or we do not want them."""
        found: dict[bytes, Account] = {}
        room = RELAY_ACCOUNTS_MAX - len(self._relay.accounts)
        for place, said in enumerate(messages):
            if not isinstance(said, PeerAccount) or not link.config.accounts:
                continue
            known = self._relay.accounts.get(said.key) is not None or said.key in found
            if not known and room <= 0:
                codes[place] = "busy"
                continue
            room -= not known
            found[said.key] = of_peer(said)
        return list(found.values())

    async def _made(self, link: _Link, said: PeerRegister) -> bytes:
        if not link.config.accounts:
            raise RelayRefused("bad_invite")
        account = await self._relay.make_account(said.key, said.name, "", said.code)
        return encode_peer(to_peer(1, account))

    def _hear_of_nodes(self, key: bytes, said: PeerMessage, late_s: float) -> None:
        relay = self._relay
        match said:
            case PeerPresent(come=come, gone=gone):
                relay.peers.hear_gone(key, keys_in(gone))
                for node in relay.peers.hear_presence(key, said, keys_in(come)):
                    if relay.mail.waits(node):
                        relay.peers.wanted(node)
                self._news()
            case PeerWithdraw(key=node):
                relay.catalogue.withdraw_from(key, node)
            case PeerAnnounce(announcement=data, age_ms=age_ms):
                try:
                    announcement = decode_announcement(data)
                except RemoteProtocolError as error:
                    raise RelayRefused("malformed", str(error)[:200]) from None
                relay.accounts.admit(announcement.beacon.key)
                age_s = age_ms / 1_000 + late_s
                relay.catalogue.announce_from(key, announcement, age_s, trio.current_time())


def _done(body: bytes) -> Any:
    """The value of `Done`. Raises: `RelayRefused`, `RemoteProtocolError`."""
    answer = decode_from_relay(body)
    if isinstance(answer, Refused):
        raise RelayRefused(answer.code, answer.text)
    if not isinstance(answer, Done):
        raise RemoteProtocolError("no answer")
    return answer.value


def _code(answer: Answer) -> str:
    return answer.code if isinstance(answer, Refused) else ""


def _account(value: object) -> Account | None:
    """The approved account in the answer to a registration."""
    try:
        account = of_peer(decode_account(value))
    except RemoteProtocolError:
        return None
    return account if account.standing is Standing.APPROVED else None
