"""Many runs of `stranger_world`: what was checked, what fired, which seeds failed.

    make sim SEED=1 ARGS='--seeds 10000'
    python -m tests.sim.stranger_seeds --seed 7 --stop             one seed, with its traceback
    python -m tests.sim.stranger_seeds --seeds 10000 --save FILE   goes on where it was interrupted

Exit code 0: all were good, each invariant was checked, each fault fired, and each did something
(of the last three only from ENOUGH seeds on).
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.sim import seeds
from tests.sim.stranger_ledger import INVARIANTS
from tests.sim.stranger_relay import FAULTS as RELAY_FAULTS
from tests.sim.stranger_villains import ACTS
from tests.sim.stranger_world import Result, World

NODE_FAULTS = (
    "cut_before_run",
    "cut_before_told",
    "restart",
    "pause",
    "break",
    "heal",
    "revoke",
    "issue",
    "narrow",
)
FAULTS = (*RELAY_FAULTS, *NODE_FAULTS, *ACTS)
EFFECTS = (
    "altered: dropped",
    "altered: unbelieved",
    "crossed: unbelieved",
    "misdirected: dropped",
    "misdirected: unbelieved",
    "replayed: answered",
    "twice: answered",
    "straddled: answered",
    "wrong_sender: let_in",
    "held: answered",
    "held: dropped",
    "false_reply: unbelieved",
    "forged_grant: answered",
    "others_grant: answered",
    "signed_anew: answered",
    "doctored: answered",
    "malleated: dropped",
    "malleated: answered",
    "passed_on: dropped",
    "resealed: let_in",
    "resealed: dropped",
    "stolen_key: let_in",
    "garbage: dropped",
    "garbage: unbelieved",
    "own_call: let_in",
    "misused: answered",
    "bent_put: answered",
    "bent_put: let_in",
    "bent_put: silent",
    "put_again",
    "forged_grant_refused",
    "forged_beacon_refused",
    "other_beacon_refused",
    "refused_on_link",
    "signed_again",
    "said_NotPermitted",
    "said_RateLimited",
    "said_Revoked",
    "cut_while_running",
    "cut_before_running",
    "once_restored",
    "once_again_on_link",
    "revoked_while_running",
    "worker_gone",
    "honest_call_to_hostile",
    "proxy_used",
    "proxy_forged",
    "search_finds",
    "by_member",
)
OUTCOMES = (
    "direct_value",
    "direct_NoConnection_maybe",
    "direct_NotPermitted",
    "direct_RateLimited",
    "direct_RemoteError",
    "direct_Revoked",
    "direct_Timeout_maybe",
    "put_value",
    "put_NotPermitted",
    "put_RateLimited",
    "put_Revoked",
    "put_Timeout",
    "put_Timeout_maybe",
    "relay_value",
    "relay_NoConnection",
    "relay_NotPermitted",
    "relay_RateLimited",
    "relay_RemoteError",
    "relay_Revoked",
    "relay_Timeout_maybe",
)

WANTED = {"checks": INVARIANTS, "faults": FAULTS, "effects": EFFECTS, "outcomes": OUTCOMES}


def play(seed: int) -> Result:
    """One run."""
    return World(seed).run()


class Totals(seeds.Totals):
    """Sums over runs."""

    def __init__(self, saved: Path | None = None) -> None:
        super().__init__(play, WANTED, saved)


def main(arguments: list[str] | None = None) -> int:
    """Run seeds; print what was checked and what fired."""
    return seeds.main("python -m tests.sim.stranger_seeds", Totals, arguments)


if __name__ == "__main__":
    sys.exit(main())
