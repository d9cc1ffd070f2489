"""A node that is called, and a pair of which the test is the relay."""

from __future__ import annotations

import random
from dataclasses import replace

from drupelet.core.grants import Grants, Quota
from drupelet.core.once import OnceRecord
from drupelet.core.requests import Answer, Callee, Caller, Outcome, Run, Sent, Wanted
from drupelet.errors import CallError
from drupelet.wire import sodium
from drupelet.wire.codec import dumps
from drupelet.wire.grants import Grant, Terms, issue

ALICE, ANNE, BOB, EVE = (bytes([number]) * 32 for number in range(1, 5))
KEY = {seed: sodium.ed25519_public(seed) for seed in (ALICE, ANNE, BOB, EVE)}
ONCE = b"once" * 4


class Node:
    """A node that offers the mission kitchen. Its tokens, keys and ids are of a seed."""

    def __init__(self, seed: bytes = ALICE, number: int = 1, quota: Quota | None = None) -> None:
        self.seed = seed
        self.random = random.Random(number)
        self.grants = Grants(KEY[seed], lambda key: False, quota or Quota())
        self.boot(0.0)

    def boot(self, now: float, records: tuple[OnceRecord, ...] = ()) -> None:
        self.callee = Callee(self.seed, self.grants, self.random.randbytes, now)
        self.callee.restore(records, now)

    def grant(self, holder: bytes = BOB, terms: Terms | None = None) -> Grant:
        made = issue(
            self.seed,
            KEY[holder],
            "kitchen",
            terms or Terms(),
            self.random.randbytes(8),
            sequence=self.grants.next_sequence,
        )
        self.grants.issued(made, 0.0)
        return made

    def wanted(self, grant: Grant, *args: object, holder: bytes = BOB) -> Wanted:
        return Wanted(
            callee=KEY[self.seed],
            boot_key=self.callee.boot_key,
            grant=grant.data,
            seed=holder,
            target="kitchen/boil",
            arguments=dumps(list(args)),
            deadline=100.0,
        )


class Pair:
    """Bob calls Alice; the test is the relay."""

    def __init__(self, quota: Quota | None = None, terms: Terms | None = None) -> None:
        self.alice = Node(quota=quota)
        self.grant = self.alice.grant(terms=terms)
        self.bob = Caller(random.Random(2).randbytes)

    def sent(self, now: float = 0.0, **changed: object) -> Sent:
        wanted = replace(self.alice.wanted(self.grant, 1), **changed)  # type: ignore[arg-type]
        return self.bob.call(wanted, self.alice.callee.token, now)

    def receive(self, sent: Sent, now: float = 0.0) -> Run | Answer | None:
        return self.alice.callee.receive(KEY[BOB], sent.id, sent.body, now)

    def run(self, sent: Sent, now: float = 0.0) -> Run:
        run = self.receive(sent, now)
        assert isinstance(run, Run)
        return run

    def reply(self, answer: object, now: float = 0.0) -> Outcome | Sent | None:
        assert isinstance(answer, Answer) and answer.to == KEY[BOB]
        return self.bob.on_reply(answer.re, answer.body, now)

    def error(self, answer: object, now: float = 0.0) -> CallError:
        outcome = self.reply(answer, now)
        assert isinstance(outcome, Outcome) and isinstance(outcome.result, CallError)
        return outcome.result
