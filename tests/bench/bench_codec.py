"""Microseconds to encode and decode one value: ours with all its checks, bare cbor2, and json.

    python tests/bench/bench_codec.py

Processor time, the best of several repetitions; compare the columns of one run, not runs.
"""

from __future__ import annotations

import base64
import datetime
import json
import time
import timeit
from collections.abc import Callable
from typing import Any

import cbor2

from drupelet.wire.codec import dumps, loads, loads_canonical, loads_control
from drupelet.wire.ids import Pid

REPETITIONS = 7
REPETITION_S = 0.05

SMALL: list[Any] = [{"id": 7, "kind": "temp", "data": bytes(range(42))}]
VALUES: dict[str, list[Any]] = {
    "small map": SMALL,
    "two arguments": ["weather", "fine"],
    "one KiB": [bytes(1024)],
    "a tuple, a pid, a date": [
        ("ok", Pid("gandalf", 17, 42), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    ],
    "100 small maps": SMALL * 100,
    "1,000 floats": [number + 0.5 for number in range(1_000)],
    "1 MiB in a map": [{"data": bytes(range(256)) * 4_096}],
}


def microseconds(call: Callable[[], object]) -> float:
    timer = timeit.Timer(call, timer=time.process_time)
    number = 1
    while timer.timeit(number) < REPETITION_S / 5:
        number *= 2
    return min(timer.repeat(REPETITIONS, number)) / number * 1e6


def in_json(value: Any) -> Any:
    """The same value as JSON can hold it: bytes in base64, the rest as text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, (list, tuple)):
        return [in_json(item) for item in value]
    if isinstance(value, dict):
        return {key: in_json(item) for key, item in value.items()}
    return value if isinstance(value, (str, int, float)) else str(value)


def main() -> None:
    print(f"{'us per operation':24}{'ours':>18}{'bare cbor2':>18}{'json (base64)':>18}")
    print(f"{'':24}" + f"{'dumps':>9}{'loads':>9}" * 3)
    for name, value in VALUES.items():
        data = dumps(value)
        plain = in_json(value)
        text = json.dumps(plain)
        cells = [
            microseconds(lambda value=value: dumps(value)),  # type: ignore[misc]
            microseconds(lambda data=data: loads(data)),  # type: ignore[misc]
        ]
        try:
            raw = cbor2.dumps(value)
        except cbor2.CBOREncodeError:  # a Pid is ours
            cells += [float("nan")] * 2
        else:
            cells += [
                microseconds(lambda value=value: cbor2.dumps(value)),  # type: ignore[misc]
                microseconds(lambda raw=raw: cbor2.loads(raw)),  # type: ignore[misc]
            ]
        cells += [
            microseconds(lambda plain=plain: json.dumps(plain)),  # type: ignore[misc]
            microseconds(lambda text=text: json.loads(text)),  # type: ignore[misc]
        ]
        print(f"{name:24}" + "".join(f"{cell:9.2f}" for cell in cells))
    data = dumps(SMALL)
    print(
        f"the small map by loads_control {microseconds(lambda: loads_control(data)):.2f}, "
        f"by loads_canonical {microseconds(lambda: loads_canonical(data)):.2f}"
    )


if __name__ == "__main__":
    main()
