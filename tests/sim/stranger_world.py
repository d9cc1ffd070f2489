"""Seven parties, two of them hostile, and a relay that is: one run, wholly decided by its seed.

Alice and Bob are members of one cluster; Charlie, Dave and Erin have a node each; Mallory and Trudy
are hostile (`stranger_villains.py`), and the relay is theirs (`stranger_relay.py`). For minutes
of virtual time the honest five issue, narrow and revoke grants, call each other over links that
break and through the relay, and their machines stop and start. Then the faults are over, and
everybody who has a right must be able to use it. `stranger_ledger.py` judges.

    World(7).run()     # a Result; raises BrokenRule

One thread, one heap of events, no clock: the same seed is the same run, to the byte.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from unittest import mock

from drupelet.core.grants import Grants, Revocation
from drupelet.core.proxies import Proxies
from drupelet.core.requests import Callee, Caller
from drupelet.errors import CallError, NoConnection, RemoteProtocolError, Timeout
from drupelet.wire import requests as wire
from drupelet.wire import sodium
from drupelet.wire.codec import dumps
from drupelet.wire.idempotency import key_bytes
from drupelet.wire.signing import sign
from tests.sim.stranger_ledger import Attempt, Deed, Ledger
from tests.sim.stranger_nodes import PROOF_DOMAIN, HonestNode
from tests.sim.stranger_owners import FUNCTIONS, Owners
from tests.sim.stranger_puts import Heard
from tests.sim.stranger_relay import Message, Relay
from tests.sim.stranger_rights import Chain, Dead, Node
from tests.sim.stranger_villains import Overheard, Villain

HONEST = ("alice", "bob", "charlie", "dave", "erin")
HOSTILE = ("mallory", "trudy")
MEMBERS = frozenset({"alice", "bob"})
QUICK_ACTS = ("false_reply", "false_reply", "resealed", "malleated", "doctored", "stolen_key")
MAIN_S = 220.0
QUIET_S = 420.0  # after it nothing that was held back is on its way
LINK_S = (0.001, 0.02)
REST_S = 4.5  # after so long without a call, every grant allows one


@dataclass(frozen=True)
class Machines:
    """What is under test. `patches`: (module or class, name, what stands there instead)."""

    grants: type[Grants] = Grants
    callee: type[Callee] = Callee
    caller: type[Caller] = Caller
    proxies: type[Proxies] = Proxies
    patches: tuple[tuple[object, str, object], ...] = ()


@dataclass(eq=False)
class Link:
    """A direct link of two parties, until it breaks."""

    number: int
    ends: tuple[str, str]
    binding: bytes
    is_up: bool = True
    shown: set[tuple[str, bytes]] = field(default_factory=set)
    waiting: list[tuple[HonestNode, Attempt]] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """What one run was."""

    checks: Counter[str]
    fired: Counter[str]
    effects: Counter[str]
    outcomes: Counter[str]
    trace_hash: str


class World:
    """One run."""

    def __init__(self, seed: int, machines: Machines = Machines()) -> None:
        self.seed = seed
        self.machines = machines
        self.random = random.Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = itertools.count()
        self.fired: Counter[str] = Counter()
        takes = {name: MEMBERS if name in MEMBERS else frozenset({name}) for name in HONEST}
        self.ledger = Ledger(seed, {name: Node(name, takes[name]) for name in HONEST})
        self.effects = self.ledger.effects
        self.relay = Relay(self)
        self.honest = {name: HonestNode(self, name, takes[name]) for name in HONEST}
        self.villains = {name: Villain(self, name) for name in HOSTILE}
        self.parties: dict[str, HonestNode | Villain] = {**self.honest, **self.villains}
        self.keys = {name: party.key for name, party in self.parties.items()}
        self.names = {key: name for name, key in self.keys.items()}
        self.owners = Owners(self)
        self.chains = self.owners.chains
        self.overheard: list[Overheard] = []
        self.puts: list[Heard] = []
        self.clients: dict[bytes, bytes] = {}  # who waits for the answer to a PUT
        self.links: dict[tuple[str, str], Link] = {}
        self.key_pool = [f"order-{self.random.randrange(1_000)}" for _ in range(3)]
        self.worker_gone = 0.04
        self._is_main = True
        self._last_link = 0

    def run(self) -> Result:
        """All of it. Raises: `BrokenRule`."""
        verify = functools.lru_cache(4_096)(sodium.verify)  # a beacon is checked by everybody
        with ExitStack() as patched:
            patched.enter_context(mock.patch.object(sodium, "verify", verify))
            for target, name, value in self.machines.patches:
                patched.enter_context(mock.patch.object(target, name, value))
            self._begin()
            self._until(MAIN_S)
            self._faults_end()
            self._until(self.now + QUIET_S)
            self._everybody_calls()
            self._finish()
        ledger = self.ledger
        shown = ledger.hash.hexdigest()
        return Result(ledger.checks, self.fired, ledger.effects, ledger.outcomes, shown)

    # -- time

    def after(self, delay_s: float, act: Callable[..., None], *args: object) -> None:
        """Do that in so long."""
        at = self.now + max(delay_s, 0.0)
        heapq.heappush(self._events, (at, next(self._count), act, args))

    def _until(self, end_s: float) -> None:
        while self._events and self._events[0][0] <= end_s:
            self.now, _, act, args = heapq.heappop(self._events)
            act(*args)
        self.now = end_s

    # -- who and where

    def keys_of(self, names: Iterable[str]) -> frozenset[bytes]:
        """Their keys."""
        return frozenset(self.keys[name] for name in names)

    def function(self) -> str:
        """Any."""
        return self.random.choice(FUNCTIONS)

    def deliver(self, message: Message) -> bool:
        """The relay brings something; whether its recipient is there."""
        party = self.parties[self.names[message.to]]
        if isinstance(party, Villain):
            party.deliver(message)
        elif party.is_up:
            party.later(0.0, party.deliver, message)
        else:
            return False
        return True

    def announce_if_due(self, key: bytes) -> None:
        """Nodes announce every ten seconds; whoever is not asked for need not do it now."""
        party = self.parties[self.names[key]]
        if self.now - party.announced_at < 10.0:
            return
        if isinstance(party, Villain) or (party.is_up and self.now >= party.paused_until):
            party.announce()

    def tell_member(self, name: str, revocation: Revocation, dead: Dead) -> None:
        """A member hears of a revocation, when it is there."""
        node = self.honest[name]
        if node.is_up:
            self.fired["tell_member"] += 1
            copy = replace(dead, is_kept=False)
            node.later(0.0, node.merge, revocation, copy)
        else:
            self.after(5.0, self.tell_member, name, revocation, dead)

    # -- deeds

    def deed(
        self,
        maker: str,
        callee: str,
        chain: Chain,
        function: str,
        *,
        secret: bool,
        key: bytes | None = None,
        key_text: str = "",
        public: bool = False,
        size: int = -1,
        fails: bool = False,
        span_s: float = 0.01,
    ) -> Deed:
        """Something to be done once."""
        mark = self.random.randbytes(16)
        size = size if size >= 0 else self.random.choice((0, 10, 90))
        number = len(self.ledger.deeds)
        target = f"{chain.mission}/{function}"
        arguments = dumps([mark, bytes(size)])
        deed = Deed(
            number,
            maker,
            callee,
            target,
            chain,
            mark,
            arguments,
            key,
            secret,
            fails,
            span_s,
            key_text,
            public,
        )
        self.ledger.wanted(deed)
        if secret:
            self.ledger.secrets.append(mark)
        elif maker in self.honest and callee not in self.honest:
            self.ledger.open.append(mark)
        return deed

    def _want(self) -> None:
        """Somebody wants something."""
        maker = self.random.choice(HONEST)
        chains = [each for each in self.chains if maker in each.holders and each.issuer != maker]
        if not chains:
            return
        alive = [each for each in chains if self.owners.is_alive(each)]
        chain = self.random.choice(alive if alive and self.random.random() < 0.8 else chains)
        callee = chain.issuer
        if callee in MEMBERS and self.random.random() < 0.35:
            others = sorted(MEMBERS - {callee, maker})
            callee = others[0] if others else callee
            self.effects["by_member"] += callee != chain.issuer
        text = self.random.choice(self.key_pool) if self.random.random() < 0.45 else ""
        public = callee in self.honest and self.random.random() < 0.35
        functions = [each for each in FUNCTIONS if chain.permits(each, 0)]
        if self.random.random() < 0.1:
            functions = list(FUNCTIONS)
        deed = self.deed(
            maker,
            callee,
            chain,
            self.random.choice(functions),
            secret=callee in self.honest and not public and self.random.random() < 0.7,
            key=key_bytes(text) if text else None,
            key_text=text,
            public=public,
            fails=self.random.random() < 0.05,
            span_s=self.random.choice((0.0, 0.01, 0.5, 5.0, 30.0)),
        )
        for _ in range(self.random.choice((1, 1, 1, 3) if text else (1,))):
            self._try(deed)

    def _try(self, deed: Deed, *, way: str = "", must_work: bool = False) -> None:
        """One call of it."""
        node = self.honest[deed.maker]
        if not node.is_up or deed.settled or (deed.key is None and deed.attempts):
            return
        deed.attempts += 1
        deed.pending += 1
        deed.denied = ""  # another request may run it
        link = self.links.get(_pair(deed.maker, deed.callee))
        if not way:
            way = "direct" if link and link.is_up and self.random.random() < 0.6 else "relay"
            if deed.public and self.random.random() < 0.7:
                way = "put"
        attempt = Attempt(deed, way, self.now, must_work=must_work)
        deadline_s = 60.0 if must_work else self.random.choice((3.0, 15.0, 60.0, 250.0, 250.0))
        if way == "direct":
            assert link is not None
            self._call_on_link(node, link, attempt, deadline_s)
        else:
            node.asking.ask(attempt, deadline_s)

    def told(self, node: HonestNode, attempt: Attempt, result: bytes | CallError) -> None:
        """An honest party has its answer; perhaps it tries again."""
        self.ledger.told(attempt, result, self.now)
        deed = attempt.deed
        if isinstance(result, bytes) or deed.key is None or deed.settled or not self._is_main:
            return
        if deed.attempts < 4 and self.random.random() < 0.8:
            node.later(self.random.uniform(0.1, 20.0), self._try, deed)

    def hears_put(self) -> None:
        """The relay has a PUT in the clear."""
        if self._is_main and self.random.random() < 0.6:
            villain = self.villains[self.random.choice(HOSTILE)]
            for _ in range(self.random.choice((1, 3))):
                self.after(self.random.choice((0.001, 0.1, 1.0)), villain.act_of, "bent_put")

    def sends(self, node: HonestNode, message: Message) -> None:
        """An honest request goes to the relay; some are overheard in the clear."""
        deed = message.deed
        assert deed is not None
        callee = self.honest.get(deed.callee)
        if deed.secret or callee is None or not callee.is_up:
            return
        try:
            public = sodium.x25519_public(callee.private)
            opened = wire.open_request(callee.private, public, message.body)
        except RemoteProtocolError:
            return  # it is of another boot
        self.ledger.known.append(opened.signed)
        self.overheard.append(Overheard(opened, deed.callee, node.key, message.ident, deed))
        if self.random.random() < 0.6:
            villain = self.villains[self.random.choice(HOSTILE)]
            act = self.random.choice(QUICK_ACTS)
            self.after(self.random.choice((0.001, 0.02, 0.1)), villain.act_of, act)

    # -- links

    def new_link(self, one: str, other: str) -> Link:
        """A link between two parties."""
        self._last_link += 1
        return Link(self._last_link, (one, other), self.random.randbytes(32))

    def _connect(self, one: str, other: str) -> None:
        if self.honest[one].is_up and self.honest[other].is_up:
            known = self.links.get(_pair(one, other))
            if known is None or not known.is_up:
                self.links[_pair(one, other)] = self.new_link(one, other)
                self.fired["heal"] += 1

    def _break(self, link: Link) -> None:
        link.is_up = False
        for node, attempt in link.waiting:
            if not attempt.over:
                lost = NoConnection("closed", maybe_ran=True)
                self.told(node, attempt, lost)
        link.waiting.clear()

    def links_down(self, name: str) -> None:
        """A machine is off: so are its links."""
        for link in list(self.links.values()):
            if link.is_up and name in link.ends:
                self._break(link)

    def _call_on_link(
        self, node: HonestNode, link: Link, attempt: Attempt, deadline_s: float
    ) -> None:
        link.waiting.append((node, attempt))
        callee = self.honest[attempt.deed.callee]
        callee.later(self.random.uniform(*LINK_S), self._arrives, node, callee, link, attempt)
        node.later(deadline_s, self._due, node, attempt)

    def _arrives(self, node: HonestNode, callee: HonestNode, link: Link, attempt: Attempt) -> None:
        if not link.is_up:
            return
        deed, chain = attempt.deed, attempt.deed.chain

        def reply(result: bytes | CallError) -> None:
            node.later(self.random.uniform(*LINK_S), self._replied, node, link, attempt, result)

        if (node.name, chain.data) not in link.shown:
            proof = b""
            if chain.bearer_seed is not None:
                proof = sign(chain.bearer_seed, PROOF_DOMAIN, link.binding).signature
            error = callee.on_present(link, node.key, chain.data, chain.holder, proof)
            if error is not None:
                reply(error)
                return
            link.shown.add((node.name, chain.data))
        callee.on_call(link, node.key, deed, reply)

    def _replied(
        self, node: HonestNode, link: Link, attempt: Attempt, result: bytes | CallError
    ) -> None:
        if link.is_up and not attempt.over:
            self.told(node, attempt, result)

    def _due(self, node: HonestNode, attempt: Attempt) -> None:
        if not attempt.over:
            self.told(node, attempt, Timeout(maybe_ran=True))

    def gave_proxy(self, secret: bytes, name: str, key: bytes, pid: int, until: float) -> None:
        """A node gave a proxy away: it will be used, and abused."""
        self.ledger.proxies[secret] = (name, key, pid, until)
        node = self.honest[name]
        thief = self.random.choice([each for each in self.keys.values() if each != key])
        for user in (key, thief):
            node.later(self.random.uniform(0.0, 60.0), node.on_proxy, secret, user)

    # -- the script

    def _begin(self) -> None:
        draw = self.random
        for node in self.honest.values():
            node.power_on()
        for name in HONEST:
            for _ in range(draw.choice((1, 2))):
                self.owners.issue(name)
        self.owners.issue(draw.choice(HONEST), "mallory")
        self.owners.issue(draw.choice(HONEST), "trudy")
        self.owners.hostile_issue()
        for _ in range(4):
            self.owners.narrow()
        for one, other in itertools.combinations(HONEST, 2):
            if draw.random() < 0.5:
                self._connect(one, other)
        self.relay.turn_hostile()
        for count, act in (
            (draw.randint(14, 22), self._want),
            (draw.randint(1, 4), self.owners.revoke),
            (draw.randint(0, 3), self._restart),
            (draw.randint(0, 2), self._pause),
            (draw.randint(1, 5), self._flip),
            (draw.randint(0, 2), self.owners.issue_more),
            (draw.randint(0, 2), self.owners.narrow),
            (draw.randint(10, 18), self._hostile_act),
        ):
            for _ in range(count):
                self.after(draw.uniform(0.5, MAIN_S - 10), act)
        self.after(draw.uniform(0.5, 20.0), self.owners.revoke_trudy)

    def _hostile_act(self) -> None:
        self.villains[self.random.choice(HOSTILE)].act()

    def _restart(self) -> None:
        """Now, or while something is under way."""
        up = [node for node in self.honest.values() if node.is_up]
        busy = [node for node in up if node.work]
        if not up:
            return
        node = self.random.choice(busy or up)
        self._cut(node)
        self.fired["restart"] += 1

    def may_cut(self, node: HonestNode, when: str) -> bool:
        """A power cut at just that moment; whether there was one."""
        if not self._is_main or self.random.random() >= 0.04:
            return False
        self.fired[when] += 1
        self._cut(node)
        return True

    def _cut(self, node: HonestNode) -> None:
        node.power_cut()
        self.after(self.random.choice((0.5, 5.0, 40.0)), self._power_on, node)

    def _power_on(self, node: HonestNode) -> None:
        if not node.is_up:
            node.power_on()

    def _pause(self) -> None:
        """A card that writes for seconds, a machine that swaps: nothing goes on."""
        node = self.random.choice(list(self.honest.values()))
        if node.is_up:
            node.paused_until = self.now + self.random.choice((0.5, 5.0, 25.0, 130.0))
            self.fired["pause"] += 1

    def _flip(self) -> None:
        one, other = self.random.sample(HONEST, 2)
        link = self.links.get(_pair(one, other))
        if link is not None and link.is_up:
            self._break(link)
            self.fired["break"] += 1
        else:
            self._connect(one, other)

    # -- and after the faults

    def _faults_end(self) -> None:
        self.relay.turn_faithful()
        self._is_main = False
        self.worker_gone = 0.0
        for node in self.honest.values():
            self._power_on(node)
            node.paused_until = min(node.paused_until, self.now)

    def _everybody_calls(self) -> None:
        for one, other in itertools.combinations(HONEST, 2):
            self._connect(one, other)
        by_relay = 6
        for chain in list(self.chains):
            node = self.honest.get(chain.issuer)
            makers = [each for each in chain.holders if each in self.honest and node is not None]
            functions = [each for each in FUNCTIONS if chain.permits(each, 40)]
            if node is None or not makers or not functions:
                continue
            for way in ("relay", "put", "direct") if by_relay > 0 else ("direct",):
                if chain not in self.owners.alive_of(node) or makers[0] == node.name:
                    continue
                by_relay -= way == "relay"
                function = self.random.choice(functions)
                public = way == "put"
                maker, secret = makers[0], not public
                deed = self.deed(
                    maker, node.name, chain, function, secret=secret, public=public, size=0
                )
                self._try(deed, way=way, must_work=True)
                self._until(self.now + 2.0)
                self.ledger.check("live", deed.settled, f"deed {deed.number} has no answer")
                self._until(
                    self.now + REST_S
                )  # on a link, another of his grants may have been used
        for deed in list(self.ledger.deeds.values()):  # what is open is tried once more
            if deed.maker in self.honest and deed.callee in self.honest and deed.key is not None:
                deed.attempts += 1
                self._try(deed, way="relay")
                self._until(self.now + 0.2)

    def _finish(self) -> None:
        self._until(self.now + 300.0)
        for private in (self.relay.private,):
            public = sodium.x25519_public(private)
            for message in self.relay.archive if self.fired["forged_beacon"] else ():
                try:
                    signed = sodium.open_sealed(private, public, message.body)
                except RemoteProtocolError:
                    continue
                self.ledger.known.append(signed)
        self.ledger.search()


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)
