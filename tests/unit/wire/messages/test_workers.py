from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire import limits
from drupelet.wire.codec import dumps, loads
from drupelet.wire.messages import workers
from drupelet.wire.messages.workers import (
    ExportEntry,
    Problem,
    WorkerFailure,
    WorkerHello,
    WorkerOrder,
    decode_hello,
    decode_order,
    encode_hello,
    encode_order,
)

DIGEST = bytes(16)


@pytest.mark.parametrize(
    "order",
    [
        WorkerOrder(mission="kvs", modules=("kvs",), exports=("store", "lookup")),
        WorkerOrder(
            mission="", modules=("/a/b.py", "/c.py"), memory_bytes=1 << 40, directory="/tmp"
        ),
        WorkerOrder(mission="m" * 63, modules=("m" * 63,) * 16, exports=("e" * 127,) * 256),
    ],
)
def test_order_round_trip(order: WorkerOrder) -> None:
    body = encode_order(order)
    assert len(body) <= limits.FRAME_BYTES_MAX - 9
    assert decode_order(body) == order


def test_the_largest_hello_fits_one_frame() -> None:
    entries = tuple(ExportEntry(f"{n:0>127}", True, "s" * 100, n % 2 == 0) for n in range(256))
    hello = WorkerHello({"k" * 63: entries}, DIGEST)
    body = encode_hello(hello)
    assert len(body) <= limits.FRAME_BYTES_MAX - 9
    assert decode_hello(body) == hello


def test_the_largest_failure_fits_one_frame_and_more_is_cut() -> None:
    problem = Problem(kind="invalid_export", file="f" * 1_024, line=7, message="m" * 400)
    body = encode_hello(WorkerFailure((problem,) * 33))
    assert len(body) <= limits.FRAME_BYTES_MAX - 9
    assert decode_hello(body) == WorkerFailure((problem,) * 32)
    longer = Problem(kind="invalid_export", file="x" + "f" * 1_024, line=7, message="m" * 401)
    assert decode_hello(encode_hello(WorkerFailure((longer,)))) == WorkerFailure((problem,))


def test_a_problem_reads_like_a_compilers() -> None:
    assert str(Problem(kind="invalid_export", file="a.py", line=3, message="x")) == (
        "a.py:3: invalid_export: x"
    )
    assert str(Problem(kind="invalid_export", file="a.py", line=0, message="x")).startswith(
        "a.py: "
    )


def hello_fields(**changes: object) -> bytes:
    fields = loads(encode_hello(WorkerHello({"kvs": (ExportEntry("store"),)}, DIGEST)))
    return dumps({**fields, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "daemon"},
        {"version": 2},
        {"digest": bytes(15)},
        {"digest": bytes(17)},
        {"missions": []},
        {"missions": {"k" * 64: []}},
        {"missions": {"": []}},
        {"missions": {"a/b": []}},
        {"missions": {7: []}},
        {"missions": {str(n): [] for n in range(65)}},
        {"missions": {"kvs": [["e" * 128, False, ""]]}},
        {"missions": {"kvs": [["e/f", False, ""]]}},
        {"missions": {"kvs": [["e", 0, ""]]}},
        {"missions": {"kvs": [["e", False, "", False]]}},
        {"missions": {"kvs": [["e", False, "", True, True]]}},
        {"missions": {"kvs": [["e", False, "s" * 101]]}},
        {"missions": {"kvs": [["e", False, ""], ["e", False, ""]]}},
        {"missions": {"kvs": [[str(n), False, ""] for n in range(257)]}},
        {"missions": {m: [[str(n), False, ""] for n in range(200)] for m in "ab"}},
        {"more": 1},
    ],
)
def test_a_hello_of_another_shape_is_refused(changes: dict[str, object]) -> None:
    assert decode_hello(hello_fields())
    with pytest.raises(RemoteProtocolError):
        decode_hello(hello_fields(**changes))


@pytest.mark.parametrize(
    "problems",
    [
        [],
        [["sabotage", "f", 1, "m"]],
        [["invalid_export", "f", -1, "m"]],
        [["invalid_export", "f", 1, "m" * 401]],
        [["invalid_export", "f" * 1_025, 1, "m"]],
        [["invalid_export", "f", 1]],
        [["invalid_export", "f", 1, "m"]] * 33,
    ],
)
def test_a_failure_of_another_shape_is_refused(problems: list[object]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_hello(dumps({"role": "worker", "version": 1, "problems": problems}))


@pytest.mark.parametrize(
    "changes",
    [
        {"modules": []},
        {"modules": ["m"] * 17},
        {"modules": [""]},
        {"modules": ["m" * 1_025]},
        {"modules": [7]},
        {"exports": ["e" * 128]},
        {"exports": ["e"] * 257},
        {"exports": "e"},
        {"mission": "m" * 64},
        {"memory_bytes": -1},
        {"directory": "d" * 1_025},
        {"version": 0},
        {"more": 1},
    ],
)
def test_an_order_of_another_shape_is_refused(changes: dict[str, object]) -> None:
    fields = loads(encode_order(WorkerOrder(mission="kvs", modules=("kvs",))))
    with pytest.raises(RemoteProtocolError):
        decode_order(dumps({**fields, **changes}))


@given(st.binary(max_size=200))
def test_noise_raises_nothing_else(data: bytes) -> None:
    for decode in (decode_hello, decode_order):
        with pytest.raises(RemoteProtocolError):
            decode(data)


def test_the_kinds_are_wtds() -> None:
    assert {
        "file_wont_compile", "invalid_export", "invalid_fn_and_arity", "function_not_exported"
    } == workers.KINDS  # fmt: skip
