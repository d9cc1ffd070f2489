"""What people write for the terms of a grant: `10/m`, `30d`, `temp,on`.

Decides the words; what the numbers may be, `wire/grants.py` decides. The command line and
`drupelet.missions` read them here, so that both take the same and say the same of a mistake;
`terms_from_fields` reads them again where they arrive.

| term | is written | means |
|---|---|---|
| rate | ``10/s``, ``10/m``, ``10/h``, ``10/d``, ``3/20s`` | calls in a time |
| expires | ``90s``, ``15m``, ``12h``, ``30d``, ``2w`` | a span from now on |
| only | ``temp,on`` | these functions |

Rejected: a bare number as seconds (who writes ``--expires 30`` may mean days); ``1d12h`` (36h says
it); dates (no node needs to know what day it is).
"""

from __future__ import annotations

from typing import Any, Final

from drupelet.errors import RemoteError
from drupelet.wire.grants import Terms

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_DIGITS_MAX: Final = 10  # ten years are nine digits of seconds


def rate_from_text(text: str) -> tuple[int, int]:
    """(calls, seconds). Raises: `ValueError` with a sentence for a person."""
    count, slash, period = text.strip().partition("/")
    calls = _number(count)
    number, unit = (period[:-1] or "1"), period[-1:]
    span = _number(number)
    if not slash or not calls or not span or unit not in _UNITS:
        raise ValueError(
            f"{text[:40]!r} is no rate; it is calls/time: 10/s, 10/m, 10/h, or 3/20s for "
            "3 calls in 20 seconds"
        )
    return calls, span * _UNITS[unit]


def span_from_text(text: str) -> int:
    """Seconds. Raises: `ValueError` with a sentence for a person."""
    compact = text.strip()
    number, unit = compact[:-1], compact[-1:]
    count = _number(number)
    if count and unit in _UNITS:
        return count * _UNITS[unit]
    hint = f"; {compact}d for days?" if _number(compact) else ""
    raise ValueError(
        f"{text[:40]!r} is no span of time; it is a number and a unit: 90s, 15m, 12h, 30d, 2w{hint}"
    )


def functions_from_text(text: str) -> list[str]:
    """Names with commas between. Raises: `ValueError` with a sentence for a person."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"{text[:40]!r} names no function between two commas; it is: temp,on")
    return names


def _number(text: str) -> int:
    """A whole number; 0 for anything else, which no term may be."""
    good = text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX
    return int(text) if good else 0


def terms_from_fields(fields: dict[str, Any]) -> Terms:
    """What a client wrote. Raises: `RemoteError`."""
    known = {"functions", "rate", "burst", "concurrent", "bytes", "expires_s", "delegable"}
    if not isinstance(fields, dict) or fields.keys() - known:
        raise RemoteError("badarg", f"terms are {', '.join(sorted(known))}")
    chosen = dict(fields)
    for field in ("functions", "rate"):
        if isinstance(chosen.get(field), list):
            chosen[field] = tuple(chosen[field])
    functions, rate = chosen.get("functions"), chosen.get("rate")
    good = functions is None or all(isinstance(each, str) for each in functions)
    good = good and (rate is None or (len(rate) == 2 and all(type(each) is int for each in rate)))
    numbers = (chosen.get(field) for field in ("burst", "concurrent", "bytes", "expires_s"))
    good = good and all(each is None or type(each) is int for each in numbers)
    if not good or type(chosen.get("delegable", 0)) is not int:
        raise RemoteError("badarg", "a term has a value of the wrong kind")
    return Terms(**chosen)
