"""``python -m drupelet.simulator``: run seeds, print one line each or a summary.

A failing seed prints what broke and the end of its trace, and the exit code is 1; the same seed
replays it anywhere.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from drupelet.simulator.cluster import NODES_DEFAULT, STEPS_DEFAULT, Result, Simulation
from drupelet.simulator.ledger import InvariantError

_LINES_MAX = 20  # more seeds than this print a summary only


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m drupelet.simulator",
        description="Runs a whole cluster under faults in virtual time. One seed is one run.",
    )
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds (default 1)")
    parser.add_argument("--nodes", type=int, default=NODES_DEFAULT, help="2 to 32 nodes")
    parser.add_argument("--steps", type=int, default=STEPS_DEFAULT, help="faults in each run")
    options = parser.parse_args(arguments)
    if not 2 <= options.nodes <= 32 or options.seeds < 1 or options.steps < 0:
        parser.error("nodes is 2 to 32, seeds at least 1, steps at least 0")
    results: list[Result] = []
    failed: list[int] = []
    begun = time.perf_counter()
    for seed in range(options.seed, options.seed + options.seeds):
        try:
            result = Simulation(seed, options.nodes, options.steps).run()
        except InvariantError as error:
            failed.append(seed)
            _say(f"FAILED {error}")
            continue
        results.append(result)
        if options.seeds <= _LINES_MAX:
            _say(_line(result))
    if options.seeds > 1:
        _say(_summary(results, failed, time.perf_counter() - begun))
    return 1 if failed else 0


def _line(result: Result) -> str:
    return (
        f"seed={result.seed} hash={result.trace_hash} events={result.event_count} "
        f"virtual_s={result.virtual_s:.0f} converged_s={result.converged_s:.2f} ups={result.ups} "
        f"downs={result.downs} told={result.told} calls={result.calls} "
        f"outcomes={_counts(result.outcomes)} faults={_counts(result.fired)}"
    )


def _summary(results: list[Result], failed: list[int], wall_s: float) -> str:
    fired: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for result in results:
        fired.update(result.fired)
        outcomes.update(result.outcomes)
    slowest = max((result.converged_s for result in results), default=0.0)
    lines = [
        f"{len(results)} seeds good, {len(failed)} failed {failed or ''}".rstrip(),
        f"{(len(results) + len(failed)) / wall_s:.1f} seeds/s, "
        f"{sum(result.event_count for result in results)} events, "
        f"{sum(result.virtual_s for result in results):.0f} virtual seconds in {wall_s:.1f} s",
        f"whole again after at most {slowest:.2f} s",
        f"outcomes {_counts(dict(sorted(outcomes.items())))}",
        f"faults {_counts(dict(sorted(fired.items())))}",
    ]
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ",".join(f"{name}:{count}" for name, count in counts.items())


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
