"""Ledger of a simulated run of seven parties: who asked for what, what ran, and what was said.

Decides whether a run is good. Nothing here is known to the machines under test; the parties say
what they ask for and what they get, workers what they run, and hooks at each node's door what it
answers. `stranger_rights.py` knows what each answer should have been.

| invariant | rule, checked in each run |
|---|---|
| value | a value is that of the run that this call caused, to the byte |
| once | one idempotency key of one holder runs once, whatever restarts |
| single | a call without a key runs once: neither its request again, nor a copy of it |
| not_run | who is told that a call did not run, or was refused: it did not, and does not later |
| rights | what runs or is let in, its maker had the right to: at that moment, at that node |
| revoked | from the moment on that `revoke` returns, nothing of it runs |
| honoured | what is refused, had to be: no refused right |
| live | when the faults are over, every right works, over each way |
| secret | what honest parties say to each other, neither the relay nor a hostile party holds |
| proxies | a proxy is taken from whom it was given to, and from nobody else |

A *deed* is what somebody wants done once; it may be tried several times, under one key. Its
arguments carry a mark, so that a worker's run is known to be of that deed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from hashlib import blake2b
from math import inf

from drupelet.errors import (
    CallError,
    NoConnection,
    NotPermitted,
    RateLimited,
    RemoteError,
    Revoked,
    Timeout,
)
from tests.sim.stranger_rights import Chain, Dead, Node

INVARIANTS = (
    "value",
    "once",
    "single",
    "not_run",
    "rights",
    "revoked",
    "honoured",
    "live",
    "secret",
    "proxies",
)


class BrokenRule(AssertionError):
    """An invariant does not hold; the run's seed replays it."""


@dataclass(eq=False)
class Deed:
    """What somebody wants done once. `secret`: nobody else is to learn of it."""

    number: int
    maker: str
    callee: str
    target: str
    chain: Chain
    mark: bytes
    arguments: bytes
    key: bytes | None
    secret: bool
    fails: bool  # its function raises
    span_s: float
    key_text: str = ""  # for the header of a PUT
    public: bool = False  # it may go as a PUT, which everybody on the way can read
    attempts: int = 0
    pending: int = 0
    runs: int = 0
    value: bytes | None = None
    error: CallError | None = None
    denied: str = ""  # it was said that it did not run
    settled: bool = False  # its maker has its value, or does not try again

    @property
    def function(self) -> str:
        """Of the mission."""
        return self.target.partition("/")[2]


@dataclass(eq=False)
class Attempt:
    """One call of it."""

    deed: Deed
    way: str  # "direct", "relay", "put"
    sent_s: float
    must_work: bool = False
    over: bool = False


@dataclass
class _Running:
    node: str
    chain: Chain
    deed: Deed


class Ledger:
    """Everything that was observed in one run."""

    def __init__(self, seed: int, nodes: dict[str, Node]) -> None:
        self.seed = seed
        self.nodes = nodes
        self.chains: dict[bytes, Chain] = {}
        self.deeds: dict[bytes, Deed] = {}  # by mark
        self.by_key: dict[tuple[str, bytes | None], list[Deed]] = defaultdict(list)
        self.key_runs: Counter[tuple[str, bytes, bytes]] = Counter()  # node, holder, key
        self.running: dict[tuple[str, int], _Running] = {}
        self.refusals: list[tuple[float, str, Chain, str]] = []
        self.secrets: list[bytes] = []
        self.open: list[bytes] = []  # what hostile parties are told: the search has to find it
        self.known: list[bytes] = []  # what the relay and hostile parties hold
        self.proxies: dict[bytes, tuple[str, bytes, int, float]] = {}
        self.checks: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self.hash = blake2b(digest_size=16)

    def check(self, invariant: str, holds: object, what: str) -> None:
        """Count the check. Raises: `BrokenRule`."""
        self.checks[invariant] += 1
        if not holds:
            raise BrokenRule(f"seed {self.seed}: {invariant}: {what}")

    def note(self, *what: object) -> None:
        """A line of the trace."""
        self.hash.update(repr(what).encode())

    # -- what is wanted

    def made(self, chain: Chain) -> None:
        """A grant was really made."""
        self.chains[chain.data] = chain

    def wanted(self, deed: Deed) -> None:
        """Somebody wants something done."""
        self.deeds[deed.mark] = deed
        self.by_key[deed.callee, deed.key].append(deed)

    # -- at a node's door

    def presented(
        self, name: str, data: bytes, keys: object, answer: str, local: float, now: float
    ) -> None:
        """A grant was shown. `keys`: those proved, if they are known (on a link)."""
        node, chain = self.nodes[name], self.chains.get(data)
        if chain is None:
            self.check("rights", answer == "NotPermitted", f"{name} took a forged grant")
            self.effects["forged_grant_refused"] += 1
            return
        ours = chain.issuer in node.takes
        proved = chain.holder in keys if isinstance(keys, set) else None
        may, must = node.expired(chain, local)
        dead = node.is_dead(chain)
        if answer == "ok":
            self.check("rights", ours and proved is not False, f"{name} took another's grant")
            self.check("rights", not dead and not must, f"{name} took a dead grant")
        elif answer == "Revoked":
            self.check("honoured", ours and (dead or may), f"{name} says that a grant is dead")
        elif answer == "NotPermitted":
            self.check("honoured", not (ours and proved), f"{name} refuses a grant that holds")
            return
        else:
            self.check("honoured", False, f"{name} answers a grant with {answer}")
        if answer != "ok":
            self.refusals.append((now, name, chain, answer))
        if not dead:
            node.saw(chain, local)

    def asked(
        self,
        name: str,
        data: bytes,
        function: str,
        size: int,
        answer: str,
        ticket: int,
        local: float,
        now: float,
    ) -> None:
        """A call came, whose grant had been shown."""
        node, chain = self.nodes[name], self.chains.get(data)
        if chain is None:
            self.check("rights", False, f"{name} knows a right of a forged grant")
            return
        node.saw(chain, local)
        may = node.answers(chain, function, size, local)
        what = f"{name} says {answer} to {function}, {sorted(may)} were right"
        self.check("rights" if answer == "ok" else "honoured", answer in may, what)
        if answer == "ok":
            node.charge(chain, ticket, function, local)
        else:
            self.refusals.append((now, name, chain, answer))
            self.effects[f"said_{answer}"] += 1

    # -- at a worker

    def not_begun(self, name: str, data: bytes, local: float, now: float) -> None:
        """It was let in, and before it began, its grant counted no more."""
        node, chain = self.nodes[name], self.chains[data]
        over = node.is_dead(chain) or node.expired(chain, local)[0]
        self.check("honoured", over, f"{name} does not begin what it let in")
        self.refusals.append((now, name, chain, "Revoked"))

    def began(self, name: str, ticket: int, data: bytes, target: str, arguments: bytes) -> Deed:
        """A worker begins to run something."""
        deed = next((each for each in self.deeds.values() if each.mark in arguments), None)
        chain = self.chains.get(data)
        if deed is None or chain is None:
            self.check("rights", False, f"{name} runs what nobody asked for")
            raise AssertionError
        what = f"{name} runs deed {deed.number} of {deed.maker}: "
        self.check("rights", deed.callee == name, what + f"it was for {deed.callee}")
        same = deed.arguments == arguments and deed.target == target
        self.check("rights", same, what + "altered")
        self.check("rights", deed.maker in chain.holders, what + "by another's grant")
        admitted = self.nodes[name].tickets.get(ticket)
        self.check("rights", admitted == (chain, deed.function), what + "not let in")
        self.check("revoked", not self.nodes[name].is_dead(chain), what + "revoked")
        self.check("not_run", not deed.denied, what + f"it was said: {deed.denied}")
        deed.runs += 1
        self.check("single" if deed.key is None else "once", deed.runs == 1, what + "again")
        if deed.key is not None:
            place = (name, chain.holder, deed.key)
            self.key_runs[place] += 1
            self.check("once", self.key_runs[place] == 1, what + "the key again")
        self.running[name, ticket] = _Running(name, chain, deed)
        return deed

    def ended(self, name: str, ticket: int, result: bytes | CallError | None) -> None:
        """It ended. None: with its node."""
        deed = self.running.pop((name, ticket)).deed
        if isinstance(result, bytes):
            deed.value = result
        elif result is not None:
            deed.error = result

    def revoke_returned(self, name: str, dead: Dead) -> None:
        """Nothing of what was revoked at that node runs any more."""
        running = [each for each in self.running.values() if each.node == name]
        still = [each.deed.number for each in running if dead.covers(each.chain)]
        self.check("revoked", not still, f"{name} has revoked, and still runs {still}")

    # -- what is said to who asked

    def told(self, attempt: Attempt, result: bytes | CallError, now: float) -> None:
        """The outcome of a call of an honest party."""
        deed = attempt.deed
        assert not attempt.over
        attempt.over = True
        deed.pending -= 1
        kind = "value" if isinstance(result, bytes) else type(result).__name__
        if isinstance(result, Timeout | NoConnection):
            kind += "_maybe" if result.maybe_ran else ""
        self.outcomes[f"{attempt.way}_{kind}"] += 1
        what = f"deed {deed.number} of {deed.maker} at {deed.callee} was told {result!r:.80}"
        self.note(now, deed.number, attempt.way, kind)
        if deed.callee not in self.nodes:
            return  # it may say what it likes
        if attempt.must_work:
            self.check("live", isinstance(result, bytes), what)
        if isinstance(result, bytes):
            self.check("value", deed.runs and result == deed.value, what)
            deed.settled = True
            return
        if isinstance(result, Timeout | NoConnection) and result.maybe_ran:
            return
        if deed.error is not None and result.args == deed.error.args:
            self.check("value", deed.runs, what)
            deed.settled = True  # that is how its run ended
            return
        if isinstance(result, RemoteError):
            self.check("value", not deed.runs, what)
            held = {each.holder for each in self.chains.values() if deed.maker in each.holders}
            users = [each for each in self.by_key[deed.callee, deed.key] if each is not deed]
            used = deed.key is not None and any(each.chain.holder in held for each in users)
            self.check("honoured", used, what)  # the key is of another deed
        self._not_run(attempt, result, what, now)

    def _not_run(self, attempt: Attempt, result: CallError, what: str, now: float) -> None:
        deed = attempt.deed
        if isinstance(result, NotPermitted):
            size = len(deed.arguments)
            takes = self.nodes[deed.callee].takes
            permitted = deed.chain.issuer in takes and deed.chain.permits(deed.function, size)
            self.check("honoured", not permitted, what)
        elif isinstance(result, RateLimited | Revoked):
            found = any(
                at >= attempt.sent_s
                and (name, refused) == (deed.callee, type(result).__name__)
                and deed.maker in chain.holders
                for at, name, chain, refused in self.refusals
            )
            self.check("honoured", found, what)
        if deed.attempts == 1:  # what became of an earlier one, this one does not say
            self.check("not_run", not deed.runs, what)
            deed.denied = repr(result)[:60]

    # -- proxies

    def proxy_taken(
        self, name: str, secret: bytes, key: bytes, pid: int | None, now: float
    ) -> None:
        """`key` used a proxy at a node, which took it to be for `pid`."""
        known = self.proxies.get(secret)
        right = None
        if known is not None and known[0] == name and known[1] == key and now < known[3]:
            right = known[2]
        what = f"{name} takes a proxy for {pid}, it is for {right}"
        self.check("proxies", pid == right, what)
        self.effects["proxy_used" if right else "proxy_forged"] += 1

    def proxies_over(self, name: str, pid: int | None) -> None:
        """Those of a process, or all of a node, end."""
        for secret, (node, key, each, until) in self.proxies.items():
            if node == name and pid in (None, each):
                self.proxies[secret] = (node, key, each, min(until, -inf))

    # -- at the end

    def search(self) -> None:
        """What the hostile hold has nothing in it that was not meant for them."""
        held = b"\0".join(self.known)
        for each in self.secrets:
            self.check("secret", each not in held, f"{each.hex()} is known to who is hostile")
        self.effects["search_finds"] += sum(each in held for each in self.open)
