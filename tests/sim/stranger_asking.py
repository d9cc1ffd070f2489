"""The calls that an honest node of the simulated run sends to the relay, of one boot.

Decides nothing: asks the relay for a node's beacon, has `core/requests.py` sign and seal, and hands
over what comes. A PUT begins in the same way (`stranger_puts.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from drupelet.core.requests import Outcome, Sent, Wanted
from drupelet.errors import CallError, NoConnection, RemoteProtocolError, Timeout
from drupelet.wire.announcements import Beacon, decode_beacon
from tests.sim.stranger_ledger import Attempt, BrokenRule
from tests.sim.stranger_relay import Message

if TYPE_CHECKING:
    from tests.sim.stranger_nodes import HonestNode

BEACON_S = 10.0


class Asking:
    """`attempts`: by the number of their call."""

    def __init__(self, node: HonestNode) -> None:
        self.node = node
        self.caller = node.world.machines.caller(node.world.random.randbytes)
        self.attempts: dict[int, Attempt] = {}
        self.beacons: dict[bytes, tuple[float, Beacon]] = {}

    def ask(self, attempt: Attempt, deadline_s: float) -> None:
        """Ask the relay for keys, then send."""
        key = self.node.world.keys[attempt.deed.callee]
        until, beacon = self.beacons.get(key, (0.0, None))
        if beacon is not None and until > self.node.local():
            self._sign(attempt, beacon, self.node.local() + deadline_s)
            return
        shown = self.node.world.relay.find(self.node.key, key, attempt.deed.chain.data)
        deadline = self.node.local() + deadline_s
        delay_s = self.node.world.random.uniform(0.01, 0.06)
        self.node.later(delay_s, self._found, attempt, shown, deadline)

    def _found(self, attempt: Attempt, shown: bytes | None, deadline: float) -> None:
        key = self.node.world.keys[attempt.deed.callee]
        beacon = None
        if shown is not None:
            try:
                beacon = decode_beacon(shown)
            except RemoteProtocolError:
                self.node.world.effects["forged_beacon_refused"] += 1
            if beacon is not None and beacon.key != key:
                self.node.world.effects["other_beacon_refused"] += 1
                beacon = None
        if beacon is None:
            self.node.world.told(self.node, attempt, NoConnection("no_route"))
            return
        self.beacons[key] = (self.node.local() + BEACON_S, beacon)
        self._sign(attempt, beacon, deadline)

    def _sign(self, attempt: Attempt, beacon: Beacon, deadline: float) -> None:
        deed = attempt.deed
        if attempt.way == "put":
            self.node.puts.send(attempt, beacon)
            return
        wanted = Wanted(
            callee=beacon.key,
            boot_key=beacon.boot_key,
            grant=deed.chain.data,
            seed=deed.chain.bearer_seed or self.node.seed,
            target=deed.target,
            arguments=deed.arguments,
            deadline=deadline,
            idempotency_key=deed.key,
        )
        try:
            sent = self.caller.call(wanted, beacon.token, self.node.local())
        except CallError as error:
            self.node.world.told(self.node, attempt, error)
            return
        self.attempts[sent.call] = attempt
        self.send(sent)
        self.node.later(deadline - self.node.local() + 1e-6, self._due)

    def send(self, sent: Sent) -> None:
        """A request, or its second."""
        message = Message(self.node.key, sent.to, sent.id, None, sent.body)
        message.deed = self.attempts[sent.call].deed
        self.node.world.sends(self.node, message)
        self.node.world.relay.put(message)

    def _due(self) -> None:
        for outcome in self.caller.handle_timer(self.node.local()):
            self.told(outcome)

    def told(self, outcome: Outcome) -> None:
        """A call is over."""
        attempt = self.attempts.pop(outcome.call, None)
        if attempt is None:
            seed = self.node.world.seed
            raise BrokenRule(f"seed {seed}: value: a call that was over is told again")
        if isinstance(outcome.result, Timeout):
            self.beacons.pop(self.node.world.keys[attempt.deed.callee], None)
        self.node.world.told(self.node, attempt, outcome.result)
