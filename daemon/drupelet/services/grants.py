"""Grants: the mission `grants`.

Decides nothing that `core/grants.py` can decide: keeps on disk what it says, and carries out what
it revokes. The calls of who holds a grant: `services/stranger_calls.py`.

| function | who | |
|---|---|---|
| `issue` | operator | a grant's file for a key, a node's name, or whoever has the file ("") |
| `accept` | operator | keep a file that somebody gave us, unless its node says that it is dead |
| `forget` | operator | keep it no more |
| `narrow` | operator | a file for somebody else, of one that we hold |
| `list` | operator | what was issued, and what was accepted |
| `revoke` | operator | by id, key or mission |
| `merge` | members | a member revoked |
| `told`, `catch_up` | members | what a member revoked before (services/telling.py) |

Rules
- Durable before it is answered: a file is handed out, and a revocation is confirmed, when it is on
  disk.
- Revoking refuses new calls first, then cancels the running ones, tells the members, and answers
  when nothing under it can run (`Missions.settle`).

Owns: a task that keeps what is left of each grant's time, every KEEP_S.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any, Final

import trio

from drupelet.core import revocations
from drupelet.core.grants import Issued, Revocation
from drupelet.errors import (
    CallError,
    ConfigError,
    NotPermitted,
    RemoteError,
    RemoteProtocolError,
)
from drupelet.services.accepted import Accepted
from drupelet.services.audit import Audit
from drupelet.services.calls import Calls
from drupelet.services.endpoint import Endpoint
from drupelet.services.missions import Missions
from drupelet.services.settling import Asked
from drupelet.services.stranger_calls import StrangerCalls
from drupelet.services.system import OPERATOR
from drupelet.services.telling import Telling
from drupelet.store.grants import GrantStore, KeptGrants
from drupelet.wire import sodium
from drupelet.wire.grant_files import GrantFile, decode_grant_file, encode_grant_file
from drupelet.wire.grant_terms import terms_from_fields
from drupelet.wire.grants import ID_BYTES, NONCE_BYTES, Grant, Terms, describe, issue, narrow
from drupelet.wire.keys import key_from_text, key_or_id, key_to_text
from drupelet.wire.limits import GRANTS_ACCEPTED_MAX

_log = logging.getLogger("drupelet.grants")

KEEP_S: Final = 600.0  # a grant outlives a power cut by that much at most
RIGHTS_PER_LINK_MAX: Final = 16
CALL_S_MAX: Final = 3_600.0
SETTLE_S: Final = 0.08  # 100 ms for everything
MERGE_S: Final = 2.0
NAMED_MAX: Final = 4  # ids and keys in one entry of the log
STRANGERS: Final = frozenset({"stranger"})


class GrantService:
    """The grants of one node. `addresses`: where others find it; `members`: keys by name."""

    def __init__(
        self,
        *,
        seed: bytes,
        name: str,
        store: GrantStore,
        missions: Missions,
        calls: Calls,
        accepted: Accepted,
        audit: Audit,
        strangers: StrangerCalls,
        addresses: Callable[[], list[tuple[str, int]]],
        members: Callable[[], dict[str, bytes]],
    ) -> None:
        self._seed = seed
        self._key = sodium.ed25519_public(seed)
        self._name = name
        self._store = store
        self._missions = missions
        self._calls = calls
        self._addresses = addresses
        self._members = members
        self._audit = audit
        self.accepted = accepted
        self.strangers = strangers
        self.grants = strangers.grants
        self.telling = Telling(calls, lambda: self.revoked_by(self._key))
        self._revoked: list[Revocation] = []
        self._lock = trio.Lock()
        self._damaged = ""
        self.relay_urls: tuple[str, ...] = ()  # of services/relay_link.py
        self.pairing_open: Callable[[], bool] = lambda: False  # services/pairing.py

    def register(self) -> None:
        """Put the mission into the whitelist, and be asked about strangers."""
        functions: dict[str, Callable[..., object]] = {
            "issue": self.issue,
            "accept": self.accept,
            "forget": self.forget,
            "narrow": self.narrow,
            "list": self.listed,
            "revoke": self.revoke,
        }
        self._missions.add_system("grants", functions, OPERATOR)
        members = frozenset({"member"})
        told: dict[str, Callable[..., object]] = {
            "merge": self.merge,
            "told": self.told,
            "catch_up": self.catch_up,
        }
        self._missions.add_system("grants", told, members, with_endpoint=True)
        self.strangers.register()

    def restore(self) -> None:
        """What was kept, before the first link. A damaged file is told, and nobody is let in."""
        try:
            kept = self._store.load()
            files = [decode_grant_file(text) for text in kept.accepted]
        except (ConfigError, RemoteProtocolError) as error:
            self._damaged = str(error)
            _log.error("grants_damaged what=%s", error)
            return
        for problem in self.grants.restore(kept.issued, kept.revoked, trio.current_time()):
            _log.warning("grant_damaged what=%s", problem)
        self._revoked = list(kept.revoked)
        self.accepted.keep(files)

    async def run(self) -> None:
        """Keep what is left of each grant's time."""
        while True:
            await trio.sleep(KEEP_S)
            if any(each.left_s != inf for each in self._in_force()):
                async with self._lock:
                    await self._save()

    # -- strangers' links (services/links.py)

    def accepts(self) -> bool:
        """Whether strangers are let in: something was granted, now or once.

        Who held it then is told that it is revoked, and does not look for a broken cable.
        """
        granted = self.grants.next_sequence > 1 or self.strangers.any_known
        return (granted and not self._damaged) or self.pairing_open()

    def endpoint(self, node: str) -> Endpoint | None:
        """The link to a node of which we hold a grant."""
        return self.accepted.endpoint(node)

    def held(self, node: str) -> list[Grant]:
        """The grants that we hold of that node."""
        return self.accepted.held(node)

    def relays(self, node: str) -> tuple[str, ...]:
        """Where that node is to be found besides."""
        return self.accepted.relays(node)

    def wait_s(self, ident: bytes) -> float:
        """After how long a call by that grant would go through."""
        return self.accepted.waits_s.get(ident, 0.0)

    async def dead(self, node: str) -> dict[bytes, CallError]:
        """Those of them that it does not take any more."""
        return await self.accepted.dead(node)

    async def connect(self, node: str) -> Endpoint | None:
        """Connect to a node of which we hold a grant."""
        return await self.accepted.connect(node)

    # -- for the operator

    async def issue(self, mission: str, holder: str, terms: dict[str, Any]) -> dict[str, object]:
        """A grant of functions of `mission`: `{"id", "text", "sentence"}`.

        `holder`: a key, a member's name, or "" for whoever has the file. `terms`: as in `Terms`.
        """
        chosen = self.check(mission, terms)
        seed = secrets.token_bytes(32) if not holder else None
        key = sodium.ed25519_public(seed) if seed is not None else self._holder(holder)
        async with self._lock:
            try:
                grant = issue(
                    self._seed,
                    key,
                    mission,
                    chosen,
                    secrets.token_bytes(NONCE_BYTES),
                    sequence=self.grants.next_sequence,
                    bearer=seed is not None,
                )
                self.grants.issued(grant, trio.current_time())
            except ValueError as error:
                raise RemoteError("badarg", str(error)) from None
            await self._save()
        places = tuple(self._addresses())
        file = GrantFile(
            grant=grant, name=self._name, addresses=places, seed=seed, relays=self.relay_urls
        )
        _log.info("granted id=%s mission=%s", grant.id_text, mission)
        caller = "" if seed is not None else key_to_text(key)
        self._audit.note("granted", caller=caller, mission=mission, note=self._sentence(grant))
        return self._shown_file(file)

    async def accept(self, text: str, *, ask: bool = True) -> dict[str, object]:
        """Keep a file that somebody gave us: `{"id", "name", "sentence", "asked", "by_relay"}`.

        `ask` its node first; `asked`: it said that it takes it; `by_relay`: there it says so at the
        first call. Raises: `Revoked`, `RemoteError`: it is not kept.
        """
        self._check_usable()
        try:
            file = decode_grant_file(text)
        except RemoteProtocolError as error:
            raise RemoteError("bad_grant", str(error)) from None
        grant = file.grant
        if grant.issuer == self._key:
            raise RemoteError("bad_grant", "this node issued it; give it to its holder")
        if file.seed is None and grant.holder != self._key:
            holder = key_to_text(grant.holder)
            raise RemoteError("bad_grant", f"it is for the key {holder}, which is not this node's")
        member = self._members().get(file.name)
        if member not in (None, grant.issuer):
            raise RemoteError("bad_grant", f"{file.name} is the name of a member of this cluster")
        if self.accepted.owner(file.name) not in (None, grant.issuer):
            raise RemoteError(
                "bad_grant", f"another node called {file.name} granted something already"
            )
        files = [each for each in self.accepted.files() if each.grant.id != grant.id]
        if len(files) >= GRANTS_ACCEPTED_MAX:
            raise RemoteError("bad_grant", f"{GRANTS_ACCEPTED_MAX} grants are kept already")
        former = [each for each in self.accepted.files() if each not in files]
        self.accepted.keep([*files, file])
        try:
            asked = await self.accepted.ask(file) if ask else False
            await self._save_locked()
        except BaseException as error:
            others = [each for each in self.accepted.files() if each is not file]
            self.accepted.keep([*others, *former])
            if isinstance(error, NotPermitted):
                what = f"{file.name} does not take it, though it is signed; ask for a new one"
                raise RemoteError("bad_grant", what) from None
            raise
        if not asked:
            await self.accepted.show(file)
        self._audit.note("accepted", mission=grant.mission, note=self._sentence(grant))
        way = self.accepted.endpoint(file.name)
        return {
            "id": grant.id_text,
            "name": file.name,
            "sentence": self._sentence(grant),
            "asked": asked,
            "by_relay": not asked and way is not None and not way.direct,
        }

    async def forget(self, ident: str) -> dict[str, object]:
        """Keep a grant no more that somebody gave us: `{"id", "name", "sentence"}`.

        A link to its node is closed: the next one shows what is left.
        """
        self._check_usable()
        files = self.accepted.files()
        file = next((each for each in files if each.grant.id_text == ident), None)
        if file is None:
            known = "`drupelet grants` lists them; what this node issued is revoked"
            raise RemoteError("badarg", f"{ident!r} is no grant that was accepted here; {known}")
        self.accepted.keep(each for each in files if each is not file)
        try:
            await self._save_locked()
        except RemoteError:
            self.accepted.keep([*self.accepted.files(), file])
            raise
        self.accepted.let_go(file.grant.issuer)
        sentence = self._sentence(file.grant)
        self._audit.note("forgotten", mission=file.grant.mission, note=sentence)
        return {"id": ident, "name": file.name, "sentence": sentence}

    async def narrow(self, text: str, holder: str, terms: dict[str, Any]) -> dict[str, object]:
        """A file for somebody else, of one that we hold: `{"id", "text", "sentence"}`."""
        try:
            file = decode_grant_file(text)
            own = file.seed if file.seed is not None else self._seed
            seed = secrets.token_bytes(32) if not holder else None
            key = sodium.ed25519_public(seed) if seed is not None else self._holder(holder)
            nonce = secrets.token_bytes(NONCE_BYTES)
            grant = narrow(
                file.grant, own, key, terms_from_fields(terms), nonce, bearer=seed is not None
            )
        except (RemoteProtocolError, ValueError) as error:
            raise RemoteError("bad_grant", str(error)) from None
        await trio.lowlevel.checkpoint()
        return self._shown_file(
            GrantFile(
                grant=grant, name=file.name, addresses=file.addresses, seed=seed, relays=file.relays
            )
        )

    def listed(self) -> dict[str, object]:
        """What is in force: `{"issued": [...], "accepted": [...]}`."""
        self._check_usable()
        issued = []
        for each in self._in_force():
            grant = self.grants.grant_of(each)
            issued.append(
                {**self._shown(grant), "left_s": None if each.left_s == inf else each.left_s}
            )
        accepted = [
            {**self._shown(each.grant), "name": each.name} for each in self.accepted.files()
        ]
        return {"issued": issued, "accepted": accepted}

    async def revoke(self, what: str) -> dict[str, object]:
        """Take back by id, key or mission. Answered when nothing of it can run any more.

        Returns `{"calls": of how many something ran, "killed": [mission], "members": {name: bool},
        "seen": False for an id that was not used here yet, and will be refused}`.
        """
        self._check_usable()
        before = {each.data: each for each in self._in_force()}
        named = self._named(what)
        seen = not isinstance(named, bytes) or len(named) != ID_BYTES or self.grants.seen(named)
        try:
            revocation = self.grants.revoke(named, trio.current_time())
        except KeyError as error:
            held = [each.name for each in self.accepted.files() if each.grant.id_text == what]
            words = f"was granted by {held[0]}, who can take it back" if held else error.args[0]
            raise RemoteError("badarg", f"{what!r} {words}") from None
        _log.info("revoked what=%s calls=%d", what, len(revocation.tickets))
        for each in self._in_force():
            before.pop(each.data, None)
        done = await self._carry_out([revocation], list(before.values()), tell=True)
        return {**done, "seen": seen}

    # -- for members

    async def merge(
        self, endpoint: Endpoint, ids: list[bytes], keys: list[bytes], sequence: int
    ) -> bool:
        """A member revoked what it had issued."""
        if endpoint.key == self._key or not all(isinstance(each, bytes) for each in (*ids, *keys)):
            raise RemoteError("badarg", "merge(ids, keys, sequence)")
        revocation = self.grants.merge(
            Revocation(
                issuer=endpoint.key, ids=frozenset(ids), keys=frozenset(keys), sequence=sequence
            )
        )
        await self._carry_out([revocation], [], tell=False)
        return True

    def told(self, endpoint: Endpoint, digest: bytes) -> bool:
        """Whether this node knows all that a member revoked, of which this is the digest."""
        return revocations.digest(self.revoked_by(endpoint.key)) == digest

    async def catch_up(self, endpoint: Endpoint, piece: list[Any]) -> bool:
        """A part of what a member revoked; some of it may be known."""
        if endpoint.key == self._key:
            raise RemoteError("badarg", "a node knows what it revoked itself")
        merged: list[Revocation] = []
        try:
            for each in revocations.from_piece(endpoint.key, piece):
                merged.append(self.grants.merge(each))
        finally:
            if merged:
                await self._carry_out(merged, [], tell=False)
        return True

    def revoked_by(self, key: bytes) -> list[Revocation]:
        """What that member revoked, or this node itself."""
        return [each for each in self._revoked if each.issuer == key]

    # -- carrying out

    async def _carry_out(
        self, told_of: list[Revocation], gone: list[Issued], *, tell: bool
    ) -> dict[str, object]:
        # First of all: a member that comes up from now on is told of it (services/telling.py).
        plain = [replace(each, tickets=()) for each in told_of]
        self._revoked = list(dict.fromkeys([*self._revoked, *plain]))
        tickets = {ticket: None for each in told_of for ticket in each.tickets}
        calls = self.strangers.withdraw(tickets)
        failure: RemoteError | None = None
        told: dict[str, object] = {}
        killed: list[str] = []

        async def settle() -> None:
            workers: dict[Asked, list[int]] = {}
            for call in calls:
                workers.setdefault(call.worker, []).append(call.ident)
            killed.extend(await self._missions.settle(workers, SETTLE_S))

        async def announce() -> None:
            if tell:
                told.update(await self._announce(told_of[0]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(settle)
            nursery.start_soon(announce)
            async with self._lock:
                try:
                    await self._save()
                except RemoteError as error:
                    failure = error
        if failure is not None:
            raise failure
        ids = sorted(ident for each in told_of for ident in each.ids)
        keys = sorted(key for each in told_of for key in each.keys)
        names = [*(each.hex() for each in ids), *(key_to_text(each) for each in keys)]
        more = [f"and {len(names) - NAMED_MAX} more"] if len(names) > NAMED_MAX else []
        what = " ".join([*names[:NAMED_MAX], *more])
        missions = {self.grants.grant_of(each).mission for each in gone}
        for mission in sorted(missions.union(call.grant.mission for call in calls)) or [""]:
            self._audit.note("revoked", mission=mission, note=what, count=max(len(calls), 1))
        return {"calls": len(calls), "killed": killed, "members": told}

    async def _announce(self, revocation: Revocation) -> dict[str, object]:
        args = (sorted(revocation.ids), sorted(revocation.keys), revocation.sequence)
        directory = self._calls.directory
        assert directory is not None
        names = directory.connected()
        answers = await self._calls.multicall(names, "grants", "merge", *args, timeout=MERGE_S)
        away = dict.fromkeys(self._members(), False)
        return {**away, **{name: answer is True for name, answer in answers.items()}}

    async def _save_locked(self) -> None:
        async with self._lock:
            await self._save()

    async def _save(self) -> None:
        """Under the lock. Raises: `RemoteError`; nothing is promised then."""
        kept = KeptGrants(
            issued=tuple(self._in_force()),
            revoked=tuple(self._revoked),
            accepted=tuple(encode_grant_file(each) for each in self.accepted.files()),
        )
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._store.save, kept)
        except ConfigError as error:
            raise RemoteError("not_durable", str(error)) from None

    # -- small things

    def _in_force(self) -> list[Issued]:
        return self.grants.in_force(trio.current_time())

    def _check_usable(self) -> None:
        if self._damaged:
            raise RemoteError("damaged", self._damaged)

    def check(self, mission: str, fields: dict[str, Any]) -> Terms:
        """The terms of a grant; who mistypes is told now, not the holder later."""
        self._check_usable()
        terms = terms_from_fields(fields)
        offered = [
            each
            for each in self._missions.exports.values()
            if each.inline is None and each.raw is None
        ]
        exports = {each.function for each in offered if each.mission == mission}
        if not exports:
            names = sorted({each.mission for each in offered})
            raise RemoteError("badarg", f"no mission {mission!r} here, but {', '.join(names)}")
        for function in terms.functions or ():
            if function not in exports:
                known = ", ".join(sorted(exports))
                raise RemoteError("badarg", f"{mission} exports no {function!r}, but {known}")
        return terms

    def _holder(self, text: str) -> bytes:
        """A key, or the name of a member. Raises: `RemoteError`."""
        member = self._members().get(text)
        if member is not None:
            return member
        try:
            return key_from_text(text)
        except ValueError as error:
            raise RemoteError("badarg", f"neither a member's name nor a key: {error}") from None

    def _named(self, what: str) -> bytes | str:
        return self._members().get(what) or key_or_id(what)

    def _sentence(self, grant: Grant) -> str:
        names = {key: name for name, key in self._members().items()}
        for file in self.accepted.files():
            names.setdefault(file.grant.issuer, file.name)
        return describe(grant, {**names, self._key: self._name})

    def _shown(self, grant: Grant) -> dict[str, object]:
        return {
            "id": grant.id_text,
            "mission": grant.mission,
            "holder": key_to_text(grant.holder),
            "sentence": self._sentence(grant),
        }

    def _shown_file(self, file: GrantFile) -> dict[str, object]:
        return {
            "id": file.grant.id_text,
            "text": encode_grant_file(file),
            "sentence": self._sentence(file.grant),
        }
