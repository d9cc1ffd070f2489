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
from drupelet.errors import NotPermitted, RemoteError
from drupelet.services.endpoint import Endpoint
from drupelet.services.grants import GrantService
from drupelet.services.joining import Joining
from drupelet.services.missions import Missions
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

_log = logging.getLogger("drupelet.pairing")

MEMBER: Final = "member"
GRANT: Final = "grant"
WATCH_S: Final = 5.0  # a code that nobody waits for by then is taken back


class _Opened:
    """A code that this node shows."""

    def __init__(self, pairing: Pairing, mission: str, terms: dict[str, Any], cookie: str) -> None:
        self.pairing = pairing
        self.mission = mission  # "": makes a member
        self.terms = terms
        self.cookie = cookie
        self.peer: Endpoint | None = None  # who had the code, or burnt it
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
        self._opened: _Opened | None = None

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
        self.cancel()
        code = make_code(secrets.token_bytes(ENTROPY_BYTES))
        pairing = Pairing(code, self._key, trio.current_time())
        self._opened = _Opened(pairing, mission, terms or {}, cookie)
        self._admission.forgiving_until = trio.current_time() + PAIR_S
        _log.info("pairing_open gives=%s", GRANT if mission else MEMBER)
        addresses = self._addresses()
        invitation = Invitation(
            code=code, key=self._key, name=self._name, addresses=tuple(addresses)
        )
        return {
            "code": show_code(code),
            "invitation": encode_invitation(invitation),
            "key": key_to_text(self._key),
            "name": self._name,
            "addresses": [list(each) for each in addresses],
            "span_s": PAIR_S,
            "gives": GRANT if mission else MEMBER,
        }

    async def wait(self) -> dict[str, object]:
        """Until it is over: `{"outcome", "name", "key"}`; of whom is empty when nobody tried."""
        opened = self._opened
        if opened is None:
            raise RemoteError("no_pairing", "no code is open on this node")
        pairing = opened.pairing
        opened.watched = True
        try:
            while pairing.next_timer() < inf:
                with trio.move_on_at(pairing.next_timer()):
                    await opened.changed.wait()
                    opened.changed = trio.Event()
                pairing.handle_timer(trio.current_time())
        finally:
            pairing.cancel()
            self._end(opened)
        return {
            "outcome": pairing.state,
            "name": opened.peer.name if opened.peer is not None else "",
            "key": key_to_text(opened.peer.key) if opened.peer is not None else "",
        }

    def cancel(self) -> bool:
        """Take the code back. Whether there was one."""
        opened = self._opened
        if opened is None:
            return False
        opened.pairing.cancel()
        opened.changed.set()
        self._end(opened)
        return True

    # -- for strangers

    def look(self, endpoint: Endpoint) -> dict[str, object]:
        """Whether somebody waits here, and for what."""
        opened = self._good(endpoint)
        return {"gives": GRANT if opened.mission else MEMBER, "version": VERSION}

    def start(self, endpoint: Endpoint, message: object) -> bytes:
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

    def step(self, endpoint: Endpoint, message: object) -> Awaitable[bytes]:
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

    async def _hand_over(self, opened: _Opened, endpoint: Endpoint, proof: bytes) -> bytes:
        if not opened.mission:
            await trio.lowlevel.checkpoint()
            return encode_handed(
                Handed(proof=proof, cookie=opened.cookie, environment=self._environment)
            )
        made = await self._grants.issue(opened.mission, key_to_text(endpoint.key), opened.terms)
        return encode_handed(Handed(proof=proof, grant=str(made["text"])))

    def done(self, endpoint: Endpoint) -> bool:
        """The other side has kept it."""
        opened = self._good(endpoint)
        if not opened.pairing.confirm(endpoint.binding, trio.current_time()):
            raise NotPermitted
        opened.changed.set()
        _log.info("paired name=%s key=%s", endpoint.name, key_to_text(endpoint.key))
        return True

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

    def _good(self, endpoint: Endpoint) -> _Opened:
        opened = self._current()
        if opened is None or not endpoint.binding:
            raise NotPermitted
        return opened

    def _end(self, opened: _Opened) -> None:
        if self._opened is not opened:
            return
        self._opened = None
        _log.info("pairing_ended outcome=%s", opened.pairing.state)
        # The two dial each other now; what failed before is no reason to wait.
        self._admission.forgiving_until = trio.current_time() + PAIR_CONFIRM_S
        self._stranger_links.cut_uninvited(self._grants.strangers.knows)
