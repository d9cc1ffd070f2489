"""core/asked.py: the answer to a sealed request. How it is judged: test_requests.py."""

from __future__ import annotations

import os

from drupelet.core.asked import Sealed
from drupelet.wire import sodium
from drupelet.wire.codec import dumps
from drupelet.wire.requests import open_reply

SEED = bytes(range(32))
KEY = sodium.ed25519_public(SEED)


def test_the_answer_opens_with_the_requests_own_key_and_names_the_request() -> None:
    private = os.urandom(32)
    public = sodium.x25519_public(private)
    asked = Sealed(b"s" * 32, b"i" * 16, b"h" * 32, public)
    for value, error in ((dumps(7), None), (None, dumps([2, True]))):
        body = asked.dressed(SEED, os.urandom, value, error)
        assert body is not None
        reply = open_reply(private, public, body, KEY)
        assert (reply.request_hash, reply.value, reply.error) == (b"h" * 32, value, error)
    assert asked.repeats


def test_nobody_is_answered_whose_key_is_none() -> None:
    asked = Sealed(b"s" * 32, b"i" * 16, b"h" * 32, bytes(32))
    assert asked.dressed(SEED, os.urandom, dumps(7), None) is None
