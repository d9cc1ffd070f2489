"""Records that count for a span: a journal whose clock is the time that this node ran.

Decides how long a record counts over restarts: `clock` is the sum of the seconds of all starts, as
far as records say. Nobody's date matters, and time without power does not count. A record is a
deterministic CBOR array ``[clock, until, field...]``; ``[clock]`` alone says how late it is.

All methods block for an fsync: call them in a thread. `up_s`: seconds since `load`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.store.journal import Journal
from drupelet.wire.codec import dumps, loads_canonical

KEPT_S: Final = 600.0  # so much of the clock a power cut may lose: the drivers say `tick` so often


@dataclass(frozen=True, slots=True)
class Span:
    """One record: its fields, and how long it counts yet. Not above 0: it does not."""

    left_s: float
    fields: list[object]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was kept, in the order of its writing. `lost`: "" or what was damaged, in words."""

    spans: list[Span]
    lost: str = ""


class Spans:
    """The journal at `path`. `load` first."""

    def __init__(self, path: Path, kind: str) -> None:
        self._journal = Journal(path, kind)
        self._path = path
        self._clock = 0.0

    @property
    def wants_rewrite(self) -> bool:
        """Give everything to `rewrite` before more is appended."""
        return self._journal.wants_rewrite

    def load(self) -> Loaded:
        """What is in the file. Raises: `OSError`."""
        found = self._journal.open()
        read: list[tuple[float, list[object]]] = []
        odd = 0
        for body in found.bodies:
            try:
                match loads_canonical(body):
                    case [float(clock)]:
                        self._clock = max(self._clock, clock)
                    case [float(clock), float(until), *fields]:
                        self._clock = max(self._clock, clock)
                        read.append((until, fields))
                    case _:
                        odd += 1
            except RemoteProtocolError:
                odd += 1
        lost = f"{odd} records in {self._path} are malformed" if odd else ""
        if found.damaged:
            lost = f"{found.damaged} bytes of {self._path} are damaged; a copy is {found.copy}"
        return Loaded([Span(until - self._clock, fields) for until, fields in read], lost)

    def append(self, spans: Sequence[Span], up_s: float) -> None:
        """Durable when it returns. Raises: `OSError`; then none of them is."""
        self._journal.append([self._body(each, up_s) for each in spans])

    def rewrite(self, spans: Iterable[Span], up_s: float) -> None:
        """These instead of what is there. Raises: `OSError`."""
        bodies = [self._body(each, up_s) for each in spans]
        self._journal.rewrite([dumps([self._clock + up_s]), *bodies])

    def tick(self, up_s: float) -> None:
        """How late it is. Raises: `OSError`."""
        if not self._journal.wants_rewrite:
            self._journal.append([dumps([self._clock + up_s])])

    def close(self, up_s: float) -> None:
        """The end, in order. Raises: `OSError`."""
        try:
            self.tick(up_s)
        finally:
            self._journal.close()

    def _body(self, span: Span, up_s: float) -> bytes:
        clock = self._clock + up_s
        return dumps([clock, clock + span.left_s, *span.fields])


__all__ = ["KEPT_S", "Loaded", "Span", "Spans"]
