"""Idempotency keys on disk: which calls were begun, and how they ended, in ``state_dir/once``.

Decides what the records of the file (`store/spans.py`) say, and what it means when some are lost:

    "begun", holder, key, content
    "ended", holder, key, content, value, error        one of the two is null
    "doubt"                                            some were lost: `KeptOnce.doubt_left_s`

Of two records of a key the later counts; one with no time left takes the former away.

Rules
- A damaged record may have been of a call that ran. So it is not skipped in silence: what is left
  counts, and for ONCE_KEPT_S no key is taken that is not among it (`OnceTable.doubt`). A person who
  knows better removes the file: then every key of the last week is new.
- All methods block for an fsync: call them in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drupelet.core.once import ONCE_KEPT_S, OnceRecord
from drupelet.store.spans import Span, Spans

_BEGUN: Final = "begun"
_ENDED: Final = "ended"
_DOUBT: Final = "doubt"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptOnce:
    """What was kept. `doubt_left_s`: for so long keys that are not in `records` are refused;
    `lost`: "" or what was damaged, in words, at this start."""

    records: tuple[OnceRecord, ...] = ()
    doubt_left_s: float = 0.0
    lost: str = ""


class OnceStore:
    """The file `path`. `load` first; `up_s` is seconds since then."""

    def __init__(self, path: Path) -> None:
        self._spans = Spans(path, "once")

    @property
    def wants_rewrite(self) -> bool:
        """Give everything to `rewrite` before more is appended."""
        return self._spans.wants_rewrite

    def load(self) -> KeptOnce:
        """What is in the file. Raises: `OSError`."""
        loaded = self._spans.load()
        records: dict[tuple[bytes, bytes], OnceRecord] = {}
        doubt_left_s, lost = 0.0, loaded.lost
        for span in loaded.spans:
            record = _record(span)
            if record is not None:
                records[record.caller, record.key] = record
            elif span.fields == [_DOUBT]:
                doubt_left_s = max(doubt_left_s, span.left_s)
            else:
                lost = lost or "a record of an idempotency key is none that this version knows"
        return KeptOnce(
            records=tuple(each for each in records.values() if each.left_s > 0),
            doubt_left_s=ONCE_KEPT_S if lost else doubt_left_s,
            lost=lost,
        )

    def append(self, records: Sequence[OnceRecord], up_s: float) -> None:
        """Durable when it returns. Raises: `OSError`; then none of them is."""
        self._spans.append([_span(each) for each in records], up_s)

    def rewrite(self, records: Iterable[OnceRecord], doubt_left_s: float, up_s: float) -> None:
        """These instead of what is there. Raises: `OSError`."""
        doubt = [Span(doubt_left_s, [_DOUBT])] if doubt_left_s > 0 else []
        self._spans.rewrite([*doubt, *(_span(each) for each in records)], up_s)

    def tick(self, up_s: float) -> None:
        """How late it is. Raises: `OSError`."""
        self._spans.tick(up_s)

    def close(self, up_s: float) -> None:
        """The end, in order. Raises: `OSError`."""
        self._spans.close(up_s)


def _span(record: OnceRecord) -> Span:
    fields: list[object] = [_BEGUN, record.caller, record.key, record.content]
    if record.outcome is not None:
        fields = [_ENDED, *fields[1:], *record.outcome]
    return Span(record.left_s, fields)


def _record(span: Span) -> OnceRecord | None:
    match span.fields:
        case [str(kind), bytes(caller), bytes(key), bytes(content), *rest]:
            outcome: tuple[bytes | None, bytes | None] | None = None
            match rest:
                case [bytes() | None as value, bytes() | None as error] if kind == _ENDED:
                    outcome = (value, error)
                case [] if kind == _BEGUN:
                    pass
                case _:
                    return None
            return OnceRecord(
                caller=caller, key=key, content=content, left_s=span.left_s, outcome=outcome
            )
    return None


__all__ = ["KeptOnce", "OnceStore"]
