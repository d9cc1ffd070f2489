"""Pairing, the side that waits: the mission `pair`, and what strangers may ask of it.

Decides nothing that `core/pairing.py` can decide: makes the code, lets strangers in while it is
good, and hands over the cookie or a grant to who has proved it.

| function | who | |
|---|---|---|
| `open` | operator | a new code, in the place of a former one |
| `wait` | operator | what became of it; the code is gone when nobody waits any more |
| `cancel` | operator | take it back |
| `join` | operator | the other side (services/joining.py) |
| `look` | strangers | whether somebody waits here |
| `start`, `step`, `done` | strangers | share, proof, kept |

Rules
- Where nobody waits, a stranger is refused as everywhere (`grants`).
- The code and the cookie are in no log.
- While a code is open, an address that failed handshakes is let in all the same: the node that is
  to be paired has dialled here with its other cookie, and would have to wait a minute for that.
- At a relay the code is shown by its plate, as long as it is good; without the relay it is good all
  the same.
- When the code is gone, so are the links of strangers that have no grant.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Final

import trio

from drupelet.core import pairing as states
from drupelet.core.admission import Admission
from drupelet.core.pairing import Pairing
from drupelet.errors import NoConnection, NotPermitted, RemoteError
from drupelet.services.endpoint import Endpoint
from drupelet.services.grants import GrantService
from drupelet.services.joining import Joining
from drupelet.services.missions import Missions
from drupelet.services.relayed_pairing import Away, Peer, RelayedPairing
from drupelet.services.stranger_calls import STRANGERS
from drupelet.services.stranger_links import StrangerLinks
from drupelet.services.system import OPERATOR
from drupelet.wire.keys import key_to_text
from drupelet.wire.limits import PAIR_CONFIRM_S, PAIR_S
from drupelet.wire.pairing import (
    ENTROPY_BYTES,
    VERSION,
    Handed,
    Invitation,
    OtherVersion,
    decode_proof,
    decode_start,
    encode_handed,
    encode_invitation,
    encode_share,
    make_code,
    show_code,
)
from drupelet.wire.relay import RelayRefused

_log = logging.getLogger("drupelet.pairing")

MEMBER: Final = "member"
GRANT: Final = "grant"
SHOW_AGAIN_S: Final = 60.0  # a relay that was restarted knows no codes
_TRIES: Final = 4  # a plate is taken one time in 16, at worst
WATCH_S: Final = 5.0  # a code that nobody waits for by then is taken back


class _Opened:
    """A code that this node shows."""

    def __init__(self, pairing: Pairing, mission: str, terms: dict[str, Any], cookie: str) -> None:
        self.pairing = pairing
        self.mission = mission  # "": makes a member
        self.terms = terms
        self.cookie = cookie
        self.peer: Peer | None = None  # who had the code, or burnt it
        self.show_at = inf  # when the relay is told of it again
        self.changed = trio.Event()
        self.watched = False
        self.watch_until = trio.current_time() + WATCH_S


class PairingService:
    """The pairing of one node. `cookie_text`: the cookie that it uses, "" if it is in no file."""

    def __init__(
        self,
        *,
        key: bytes,
        name: str,
        environment: str,
        grants: GrantService,
        stranger_links: StrangerLinks,
        admission: Admission,
        addresses: Callable[[], list[tuple[str, int]]],
        cookie_text: Callable[[], Awaitable[str]],
        joining: Joining,
        relayed: RelayedPairing | None = None,
    ) -> None:
        self._key = key
        self._name = name
        self._environment = environment
        self._grants = grants
        self._stranger_links = stranger_links
        self._admission = admission
        self._addresses = addresses
        self._cookie_text = cookie_text
        self._joining = joining
        self._relayed = relayed
        self._opening = trio.Lock()
        self._opened: _Opened | None = None
        if relayed is not None:
            relayed.shows = self

    def register(self, missions: Missions) -> None:
        """Put the mission into the whitelist, and let strangers in while a code is open."""
        mine: dict[str, Callable[..., object]] = {
            "open": self.open,
            "wait": self.wait,
            "cancel": self.cancel,
            "join": self._joining.join,
        }
        theirs: dict[str, Callable[..., object]] = {
            "look": self.look,
            "start": self.start,
            "step": self.step,
            "done": self.done,
        }
        missions.add_system("pair", mine, OPERATOR)
        missions.add_system("pair", theirs, STRANGERS, with_endpoint=True)
        self._grants.pairing_open = self.is_open

    def is_open(self) -> bool:
        """Whether a stranger may come in because of a code."""
        return self._current() is not None

    # -- for the operator

    async def open(self, mission: str = "", terms: dict[str, Any] | None = None) -> object:
        """A new code: `{"code", "invitation", "key", "name", "addresses", "span_s", "gives"}`.

        `mission`: who has the code is granted it, as `grants/issue` with `terms`; "": becomes a
        member.
        """
        cookie = ""
        if mission:
            self._grants.check(mission, terms or {})
        else:
            cookie = await self._cookie_text()
            if not cookie:
                raise RemoteError(
                    "cookie_unknown",
                    "the cookie that this node uses was set while it ran, and is in no file",
                )
        async with self._opening:
            self.cancel()
            code, relay, problem = await self._new_code()
            pairing = Pairing(code, self._key, trio.current_time())
            opened = _Opened(pairing, mission, terms or {}, cookie)
            self._opened = opened
        if self._relayed is not None:
            opened.show_at = trio.current_time() + SHOW_AGAIN_S
        self._admission.forgiving_until = trio.current_time() + PAIR_S
        _log.info("pairing_open gives=%s relay=%s", GRANT if mission else MEMBER, relay or "none")
        addresses = self._addresses()
        invitation = Invitation(
            code=code, key=self._key, name=self._name, addresses=tuple(addresses), relay=relay
        )
        return {
            "code": show_code(code),
            "invitation": encode_invitation(invitation),
            "key": key_to_text(self._key),
            "name": self._name,
            "addresses": [list(each) for each in addresses],
            "span_s": PAIR_S,
            "gives": GRANT if mission else MEMBER,
            "relay": relay,
            "relay_problem": problem,
        }

    async def _new_code(self) -> tuple[str, str, str]:
        """A code; the relay where it can be found, or "" and why not."""
        code, problem = "", ""
        for _ in range(_TRIES):
            code = make_code(secrets.token_bytes(ENTROPY_BYTES))
            if self._relayed is None:
                break
            try:
                await self._relayed.show(code, PAIR_S)
                return code, self._relayed.url, ""
            except RelayRefused as refusal:
                problem = str(refusal)
                if refusal.code != "taken":  # another node's code has the same plate
                    break
            except NoConnection:
                problem = "it cannot be reached now"
                break
        return code, "", problem

    async def wait(self) -> dict[str, object]:
        """Until it is over: `{"outcome", "by", "name", "key"}`, the last two "" when nobody tried.

        `by`: "link" or "relay".
        """
        opened = self._opened
        if opened is None:
            raise RemoteError("no_pairing", "no code is open on this node")
        pairing = opened.pairing
        opened.watched = True
        try:
            while pairing.next_timer() < inf:
                with trio.move_on_at(min(pairing.next_timer(), opened.show_at)):
                    await opened.changed.wait()
                    opened.changed = trio.Event()
                pairing.handle_timer(trio.current_time())
                self._show_again(opened)
        finally:
            pairing.cancel()
            self._end(opened)
        return {
            "outcome": pairing.state,
            "by": "relay" if isinstance(opened.peer, Away) else "link",
            "name": opened.peer.name if opened.peer is not None else "",
            "key": key_to_text(opened.peer.key) if opened.peer is not None else "",
        }

    def _show_again(self, opened: _Opened) -> None:
        now = trio.current_time()
        if self._relayed is not None and opened.pairing.code and now >= opened.show_at:
            opened.show_at = now + SHOW_AGAIN_S
            self._relayed.show_on(opened.pairing.code, opened.pairing.left_s(now))

    def cancel(self) -> bool:
        """Take the code back. Whether there was one."""
        opened = self._opened
        if opened is None:
            return False
        opened.pairing.cancel()
        opened.changed.set()
        self._end(opened)
        return True

    # -- for strangers, on a link or through a relay

    def look(self, endpoint: Endpoint) -> dict[str, object]:
        """Whether somebody waits here, and for what."""
        opened = self._good(endpoint)
        return {"gives": GRANT if opened.mission else MEMBER, "version": VERSION}

    def start(self, endpoint: Peer, message: object) -> bytes:
        """A share: ours."""
        opened = self._good(endpoint)
        if not opened.mission and endpoint.name == self._name:
            raise RemoteError("name_taken", f"both nodes are called {self._name}")
        try:
            share = decode_start(message)
        except OtherVersion as error:
            raise RemoteError("pair_version", str(error)) from None
        private = secrets.token_bytes(32)
        now = trio.current_time()
        own = opened.pairing.start(endpoint.binding, endpoint.key, share, private, now)
        if own is None:
            raise NotPermitted
        return encode_share(own)

    def step(self, endpoint: Peer, message: object) -> Awaitable[bytes]:
        """A proof: ours, and what there is to hand over. The first wrong one burns the code."""
        opened = self._good(endpoint)
        pairing = opened.pairing
        proof = pairing.prove(endpoint.binding, decode_proof(message), trio.current_time())
        if proof is None and pairing.state != states.BURNT:
            raise NotPermitted
        opened.peer = endpoint
        opened.changed.set()
        if proof is None:
            _log.warning("pairing_burnt by=%s", key_to_text(endpoint.key))
            raise RemoteError("wrong_code", "the code was wrong; it is burnt now")
        return self._hand_over(opened, endpoint, proof)

    async def _hand_over(self, opened: _Opened, endpoint: Peer, proof: bytes) -> bytes:
        if not opened.mission:
            await trio.lowlevel.checkpoint()
            return encode_handed(
                Handed(proof=proof, cookie=opened.cookie, environment=self._environment)
            )
        made = await self._grants.issue(opened.mission, key_to_text(endpoint.key), opened.terms)
        return encode_handed(Handed(proof=proof, grant=str(made["text"])))

    def done(self, endpoint: Peer) -> bool:
        """The other side has kept it."""
        opened = self._good(endpoint)
        if not opened.pairing.confirm(endpoint.binding, trio.current_time()):
            raise NotPermitted
        opened.changed.set()
        _log.info("paired name=%s key=%s", endpoint.name, key_to_text(endpoint.key))
        return True

    def isk(self) -> bytes:
        """The key that this node and who has proved the code have; b"" before and after."""
        return self._opened.pairing.isk if self._opened is not None else b""

    def kept(self, peer: Peer, addresses: tuple[tuple[str, int], ...]) -> None:
        """As `done`; and where the new member may be reached, since no link told."""
        opened = self._good(peer)
        self.done(peer)
        if not opened.mission:
            self._joining.introduce(peer.name, peer.key, addresses)

    # -- small things

    def _current(self) -> _Opened | None:
        opened = self._opened
        if opened is None:
            return None
        now = trio.current_time()
        if not opened.watched and now >= opened.watch_until:
            self.cancel()
            return None
        opened.pairing.handle_timer(now)
        return opened if opened.pairing.next_timer() < inf else None

    def _good(self, endpoint: Peer) -> _Opened:
        opened = self._current()
        if opened is None or not endpoint.binding:
            raise NotPermitted
        return opened

    def _end(self, opened: _Opened) -> None:
        if self._opened is not opened:
            return
        self._opened = None
        _log.info("pairing_ended outcome=%s", opened.pairing.state)
        if self._relayed is not None:
            self._relayed.hide()
        # The two dial each other now; what failed before is no reason to wait.
        self._admission.forgiving_until = trio.current_time() + PAIR_CONFIRM_S
        self._stranger_links.cut_uninvited(self._grants.strangers.knows)
