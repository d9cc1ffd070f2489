"""Idempotency keys as programs say them."""

from __future__ import annotations

import pytest

from drupelet.errors import NotSendable, RemoteProtocolError
from drupelet.wire.codec import dumps, loads
from drupelet.wire.idempotency import KEY_BYTES, key_bytes, question, value_of
from drupelet.wire.limits import IDEMPOTENCY_KEY_BYTES_MAX


def test_16_bytes_are_taken_as_they_are_and_all_else_by_its_digest() -> None:
    assert key_bytes(b"k" * KEY_BYTES) == b"k" * KEY_BYTES
    known = {key_bytes(each) for each in ("order-17", "order-18", b"order-19", "k" * KEY_BYTES)}
    assert len(known) == 4 and all(len(each) == KEY_BYTES for each in known)
    assert key_bytes("order-17") == key_bytes(b"order-17")
    assert key_bytes("k" * KEY_BYTES) != b"k" * KEY_BYTES


@pytest.mark.parametrize("bad", ["", b"", 17, None, ["x"], "\udc80"])
def test_what_is_no_key(bad: object) -> None:
    with pytest.raises(NotSendable, match="idempotency_key"):
        key_bytes(bad)  # type: ignore[arg-type]


def test_a_key_at_the_maximum_and_one_above() -> None:
    assert key_bytes("x" * IDEMPOTENCY_KEY_BYTES_MAX)
    with pytest.raises(NotSendable, match="at most"):
        key_bytes("x" * (IDEMPOTENCY_KEY_BYTES_MAX + 1))


def test_a_question_and_its_answer() -> None:
    node, target, key, args = question("bilbo", "kvs", "store", ("a", 1), "order-17")
    assert (node, target, key) == ("bilbo", "kvs/store", key_bytes("order-17"))
    assert loads(args) == ["a", 1]
    assert question("bilbo", "kvs", "store", (), None)[2] is None
    assert value_of(dumps(("ok", 1))) == ("ok", 1)
    with pytest.raises(RemoteProtocolError):
        value_of("hot")
