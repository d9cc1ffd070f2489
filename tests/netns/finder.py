"""A daemon's discovery and nothing else, as a program: `python -m tests.netns.finder KEY NAME`.

Prints one JSON line per candidate; for each line on standard input, one with the statistics. Pings
every second, so that the reports are fresh.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import trio

from drupelet.config import MdnsConfig
from drupelet.core.candidates import Candidate
from drupelet.services import discovery

PORT = 4370


def _print(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, "at_s": trio.current_time(), **fields}), flush=True)


def _on_candidate(candidate: Candidate) -> None:
    _print("candidate", **dataclasses.asdict(candidate))


async def _answer(keeper: discovery.Discovery) -> None:
    async for _ in trio.wrap_file(sys.stdin):
        _print("statistics", **dataclasses.asdict(keeper.statistics()))


async def main(key_prefix: str, name: str) -> None:
    """Run until standard input closes."""
    discovery.PING_INTERVAL_S = 1.0
    keeper = discovery.Discovery(
        MdnsConfig(), key_prefix=key_prefix, name=name, port=PORT, on_candidate=_on_candidate
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        await _answer(keeper)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
