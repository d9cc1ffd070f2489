"""Runs every fuzz target for a number of executions; one line each; exit code 1 on a finding.

python tests/fuzz/run_all.py --runs 1000000 [TARGET...]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
TARGET_S_MAX = 1_800.0  # a million executions of the slowest take about 10 minutes
OUTPUT_SHOWN_CHARS = 4_000
DONE = re.compile(r"Done (\d+) (?:runs )?in (\d+) second")


def run(target: str, runs: int, limit_s: float, findings: str) -> bool:
    """One target in a process of its own; True if nothing was found."""
    command = [sys.executable, str(HERE / f"fuzz_{target}.py"), f"-runs={runs}"]
    start = time.monotonic()
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "FUZZ_FINDINGS": findings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        print(f"{target:10} not finished after {limit_s:.0f} s")
        print((expired.stdout or b"").decode("utf-8", "replace")[-OUTPUT_SHOWN_CHARS:])
        return False
    seconds = time.monotonic() - start
    output = done.stdout.decode("utf-8", "replace")
    match = DONE.search(output)
    if done.returncode or match is None or int(match[1]) < runs:
        print(f"{target:10} FINDING (exit {done.returncode}); input kept in {findings}")
        print(output[-OUTPUT_SHOWN_CHARS:])
        return False
    print(
        f"{target:10} {int(match[1])} executions, {int(match[1]) / seconds:.0f}/s, ok", flush=True
    )
    return True


def main() -> int:
    known = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--limit-s", type=float, default=TARGET_S_MAX, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(known))
    options = parser.parse_args()
    unknown = set(options.targets) - set(known)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("atheris is not installed: pip install atheris (x86-64, CPython 3.11 to 3.13)")
        return 1
    findings = tempfile.mkdtemp(prefix="drupelet-findings-")
    good = [
        run(target, options.runs, options.limit_s, findings) for target in options.targets or known
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
