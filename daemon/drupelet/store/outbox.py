"""Casts that wait for those who are called, in ``state_dir/outbox``.

Decides what the records of the file (`store/spans.py`) say:

    key, callee, name, target, arguments, holder, made     it waits
    key, callee                                            it is done

Rules
- A cast is on disk before its caller is told. That it is done may be lost in a power cut: then it
  is sent again, with the same idempotency key, which does no harm.
- What is damaged is told, and nothing else is lost.
- All methods block for an fsync: call them in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from drupelet.store.spans import Span, Spans


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCast:
    """One cast. `key`: its idempotency key, `made` by this node or said by a program; `callee`: the
    node's key; `holder`: by whose grant, b"": a member's; `left_s`: so long it may wait yet, 0: it
    is done."""

    key: bytes
    callee: bytes
    name: str
    target: str
    arguments: bytes
    left_s: float
    holder: bytes = b""
    made: bool = False


class OutboxStore:
    """The file `path`. `load` first; `up_s` is seconds since then."""

    def __init__(self, path: Path) -> None:
        self._spans = Spans(path, "outbox")

    @property
    def wants_rewrite(self) -> bool:
        """Give everything to `rewrite` before more is appended."""
        return self._spans.wants_rewrite

    def load(self) -> tuple[list[KeptCast], str]:
        """What waits, the oldest first; and "" or what was lost. Raises: `OSError`."""
        loaded = self._spans.load()
        casts: dict[tuple[bytes, bytes], KeptCast] = {}
        lost = loaded.lost
        for span in loaded.spans:
            match span.fields:
                case [
                    bytes(key),
                    bytes(callee),
                    str(name),
                    str(target),
                    bytes(arguments),
                    bytes(holder),
                    bool(made),
                ]:
                    casts[callee, key] = KeptCast(
                        key=key,
                        callee=callee,
                        name=name,
                        target=target,
                        arguments=arguments,
                        left_s=span.left_s,
                        holder=holder,
                        made=made,
                    )
                case [bytes(key), bytes(callee)]:
                    casts.pop((callee, key), None)
                case _:
                    lost = lost or "a record of a cast is none that this version knows"
        return [each for each in casts.values() if each.left_s > 0], lost

    def append(self, casts: Sequence[KeptCast], up_s: float) -> None:
        """Durable when it returns. Raises: `OSError`; then none of them is."""
        self._spans.append([_span(each) for each in casts], up_s)

    def rewrite(self, casts: Iterable[KeptCast], up_s: float) -> None:
        """These instead of what is there. Raises: `OSError`."""
        self._spans.rewrite([_span(each) for each in casts], up_s)

    def tick(self, up_s: float) -> None:
        """How late it is. Raises: `OSError`."""
        self._spans.tick(up_s)

    def close(self, up_s: float) -> None:
        """The end, in order. Raises: `OSError`."""
        self._spans.close(up_s)


def _span(cast: KeptCast) -> Span:
    if cast.left_s <= 0:
        return Span(0.0, [cast.key, cast.callee])
    fields = [cast.key, cast.callee, cast.name, cast.target, cast.arguments, cast.holder, cast.made]
    return Span(cast.left_s, fields)


__all__ = ["KeptCast", "OutboxStore"]
