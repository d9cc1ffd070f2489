"""Calls over HTTP: how many signed PUTs a node and a relay look at in a second.

    python -m tests.bench.bench_http_calls [--quick]

The peer is http-message-signatures, verifying the same requests: the relay has it, the daemon a
small verifier of its own (adr/0020). Best of some rounds, in this program, on one core. `node` is
all that a node does before the function runs; `relay` the checks of signature, date and grant.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from drupelet.core.grants import Grants, Quota
from drupelet.core.http_calls import HttpCalls
from drupelet.core.requests import Callee, Run
from drupelet.relay.apply import Apply, _granted
from drupelet.wire import sodium
from drupelet.wire.codec import dumps
from drupelet.wire.grants import NONCE_BYTES, Grant, Terms, issue
from drupelet.wire.http_calls import JSON, AppliedPut, encode_put, path_to
from drupelet.wire.http_signatures import (
    SignedPut,
    bytes_field,
    check_digest,
    digest_of,
    open_put,
    sign_put,
    verify_put,
)
from tests.bench.bench_grants import PLENTY, seed

ROUNDS = 5
BODY = b'[1, "a", {"b": [true, null, 0.5]}]'
WORD = ("alice", "light", "temp")


class _NoRelay:
    on_applied = None


def best_us(function: Callable[[list[Any]], object], rounds: list[list[Any]]) -> float:
    """Microseconds for each of the inputs, in the best round."""
    took = []
    for inputs in rounds:
        started = time.perf_counter()
        function(inputs)
        took.append((time.perf_counter() - started) / len(inputs) * 1e6)
    return min(took)


def puts(holder: bytes, grant: Grant, token: bytes, count: int) -> list[AppliedPut]:
    made = []
    for _ in range(count):
        bare = SignedPut(
            path=path_to(*WORD),
            content_type=JSON,
            content_digest=digest_of(BODY),
            grant=bytes_field(grant.data),
        )
        nonce = token + os.urandom(16)
        signature_input, signature = sign_put(holder, bare, created=int(time.time()), nonce=nonce)
        put = replace(bare, signature_input=signature_input, signature=signature)
        made.append(AppliedPut(put=put, body=BODY, wait_ms=1_000, cbor=False))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    count = 50 if parser.parse_args().quick else 400
    own, holder = seed(), seed()
    door = Grants(own[1], lambda key: False, cast(Quota, PLENTY))
    grant = issue(own[0], holder[1], "light", Terms(), os.urandom(NONCE_BYTES), sequence=1)
    door.issued(grant, 0.0)
    callee = Callee(own[0], door, os.urandom, 0.0)
    calls = HttpCalls(callee, own[0], "alice")
    apply = Apply(cast(Any, _NoRelay()), entropy=os.urandom)
    rounds = [puts(holder[0], grant, callee.token, count) for _ in range(ROUNDS)]
    apply._verified(rounds[0][0])  # the package is imported now

    def ours(inputs: list[AppliedPut]) -> None:
        for each in inputs:
            check_digest(each.put.content_digest, each.body)
            verify_put(open_put(each.put))

    def node(inputs: list[tuple[bytes, bytes]]) -> None:
        for ident, body in inputs:
            run = calls.receive(ident, body, 1.0)
            assert isinstance(run, Run)
            callee.finish(run.ticket, dumps(None), 1.0)

    def relay(inputs: list[AppliedPut]) -> None:
        for each in inputs:
            _granted(each.put, apply._verified(each), WORD)

    message, signature = b"x" * 700, sodium.sign(holder[0], b"x" * 700)
    plain = [[0] * count for _ in range(ROUNDS)]
    figures = {
        "one signature": best_us(
            lambda inputs: [sodium.verify(holder[1], message, signature) for _ in inputs], plain
        ),
        "our verifier": best_us(ours, rounds),
        "node": best_us(
            node, [[(os.urandom(16), encode_put(each)) for each in some] for some in rounds]
        ),
        "relay": best_us(relay, rounds),
    }
    for name, us in figures.items():
        print(f"  {name:14} {us:8,.0f} us  {1e6 / us:8,.0f} a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
