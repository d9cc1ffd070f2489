"""Back-off: how long to wait before the next try.

Decides one delay after another: uniformly random between half a base and a ceiling that doubles up
to a cap ("full jitter", M. Brooker, "Exponential Backoff And Jitter", 2015), bounded below so that
it never is 0 and a loop over it never spins.

Ideas rejected: no jitter (nodes that lost each other at once dial each other at once, for ever);
equal jitter (half the ceiling fixed): slower to spread for the same load.
"""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """The delays of one retried thing.

    `base_s` is the first ceiling, `cap_s` the last; `random` gives floats in [0, 1).
    """

    __slots__ = ("_base_s", "_cap_s", "_ceiling_s", "_random")

    def __init__(self, base_s: float, cap_s: float, random: Callable[[], float]) -> None:
        if not 0.0 < base_s <= cap_s:
            raise ValueError(f"back-off needs 0 < base_s <= cap_s, got {base_s} and {cap_s}")
        self._base_s = base_s
        self._cap_s = cap_s
        self._ceiling_s = base_s
        self._random = random

    def next_delay_s(self) -> float:
        """The delay before the next try; the ceiling doubles for the one after it."""
        floor_s = self._base_s / 2
        delay_s = floor_s + self._random() * (self._ceiling_s - floor_s)
        self._ceiling_s = min(self._ceiling_s * 2, self._cap_s)
        return delay_s

    def reset(self) -> None:
        """A try succeeded: begin again at the base."""
        self._ceiling_s = self._base_s
