"""Many runs of a seeded world: what was checked, what fired, which seeds failed.

`process_seeds` and `stranger_seeds` say which world, and what has to happen in enough runs of it.
Exit code 0: all were good, and nothing of that was missing (asked only from ENOUGH seeds on).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

ENOUGH = 500  # seeds after which nothing may be missing
SAVE_EVERY = 100
KINDS = ("checks", "runs", "faults", "effects", "outcomes")


class Result(Protocol):
    """What one run was."""

    @property
    def checks(self) -> Counter[str]: ...
    @property
    def fired(self) -> Counter[str]: ...
    @property
    def effects(self) -> Counter[str]: ...
    @property
    def outcomes(self) -> Counter[str]: ...


class Totals:
    """Sums over runs of `play`. `wanted`: what has to happen. `saved`: a file that keeps them."""

    def __init__(
        self,
        play: Callable[[int], Result],
        wanted: Mapping[str, tuple[str, ...]],
        saved: Path | None = None,
    ) -> None:
        self.play = play
        self.wanted = wanted
        self.saved = saved
        self.done = 0
        self.took_s = 0.0
        self.failed: list[int] = []
        self.counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        if saved is not None and saved.exists():
            found = json.loads(saved.read_text())
            if found["of"] != self.play.__module__:
                raise SystemExit(f"{saved} has runs of {found['of']}: name another file")
            self.done, self.took_s, self.failed = found["done"], found["took_s"], found["failed"]
            self.counts = {kind: Counter(found[kind]) for kind in KINDS}

    def run(self, seed: int) -> None:
        """One more; raises what it raises."""
        begun = time.perf_counter()
        try:
            result = self.play(seed)
        except BaseException:
            self.failed.append(seed)
            raise
        finally:
            self.took_s += time.perf_counter() - begun
            self.done += 1
        self.counts["checks"] += result.checks
        self.counts["runs"].update(list(+result.checks))
        self.counts["faults"] += result.fired
        self.counts["effects"] += result.effects
        self.counts["outcomes"] += result.outcomes

    def save(self) -> None:
        """Write the file."""
        if self.saved is not None:
            shown = {
                "of": self.play.__module__,
                "done": self.done,
                "took_s": self.took_s,
                "failed": self.failed,
            }
            self.saved.write_text(json.dumps(shown | self.counts))

    def missing(self) -> list[str]:
        """What was never checked, or never fired."""
        return [
            f"{kind}: {name}"
            for kind, names in self.wanted.items()
            for name in names
            if not self.counts[kind][name]
        ]

    def text(self) -> str:
        """For people."""
        lines = [
            f"{self.done - len(self.failed)} seeds good, {len(self.failed)} failed"
            + (f": {self.failed[:20]}" if self.failed else ""),
            f"{self.took_s:.1f} s, {self.took_s / max(self.done, 1) * 1000:.2f} ms a seed",
        ]
        for kind in KINDS:
            counts = sorted(self.counts[kind].items())
            lines.append(f"{kind}: " + ", ".join(f"{name} {count:,}" for name, count in counts))
        return "\n".join(lines) + "\n"


def main(prog: str, make: Callable[[Path | None], Totals], arguments: list[str] | None) -> int:
    """Run seeds; print what was checked and what fired."""
    parser = argparse.ArgumentParser(prog=prog)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--stop", action="store_true", help="at the first failure, with traceback")
    parser.add_argument("--save", type=Path, help="keep what was done in this file, and go on")
    options = parser.parse_args(arguments)
    logging.getLogger("drupelet").setLevel(logging.ERROR)  # processes crash here on purpose
    totals = make(options.save)
    for seed in range(options.seed + totals.done, options.seed + options.seeds):
        try:
            totals.run(seed)
        except Exception as error:
            if options.stop:
                raise
            sys.stdout.write(f"FAILED {seed} {type(error).__name__} {error}\n"[:600] + "\n")
        if totals.done % SAVE_EVERY == 0:
            totals.save()
    totals.save()
    sys.stdout.write(totals.text())
    missing = totals.missing() if totals.done >= ENOUGH else []
    if missing:
        sys.stdout.write(f"NEVER {', '.join(missing)}\n")
    return 1 if totals.failed or missing else 0
