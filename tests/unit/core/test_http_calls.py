"""A signed PUT at the callee: the same door as sealed requests, whatever the relay does."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.core import http_calls as core
from drupelet.core.freshness import TOKEN_S, TOKENS_MAX
from drupelet.core.grants import Grants
from drupelet.core.http_calls import HttpCalls
from drupelet.core.requests import Answer, Callee, Run
from drupelet.errors import CallError, RateLimited, RemoteError, RemoteProtocolError, Timeout
from drupelet.wire import sodium
from drupelet.wire.codec import dumps, loads
from drupelet.wire.grants import Grant, Terms, issue, narrow
from drupelet.wire.http_calls import (
    JSON,
    AppliedAnswer,
    AppliedPut,
    decode_answer,
    decode_put,
    encode_put,
    path_to,
)
from drupelet.wire.http_signatures import (
    SignedPut,
    bytes_field,
    check_digest,
    digest_of,
    sign_put,
    verify_answer,
)
from drupelet.wire.idempotency import key_bytes
from drupelet.wire.keys import key_to_text
from drupelet.wire.limits import IDEMPOTENCY_KEY_BYTES_MAX
from drupelet.wire.relay import APPLY_KEY

ALICE, BOB, EVE = (bytes([number]) * 32 for number in range(1, 4))
KEY = {seed: sodium.ed25519_public(seed) for seed in (ALICE, BOB, EVE)}
FIRST = b"1" * 16


class Node:
    """Alice's, with the mission light."""

    def __init__(self) -> None:
        self.random = random.Random(1)
        self.grants = Grants(KEY[ALICE], lambda key: False)
        self.callee = Callee(ALICE, self.grants, self.random.randbytes, 0.0)
        self.calls = HttpCalls(self.callee, ALICE, "alice")
        self.refused: list[tuple[bytes, str, CallError]] = []
        self.callee.on_refused = lambda *what: self.refused.append(what)

    def grant(self, holder: bytes = BOB, terms: Terms | None = None) -> Grant:
        made = issue(
            ALICE,
            KEY[holder],
            "light",
            terms or Terms(functions=("temp",)),
            self.random.randbytes(8),
            sequence=self.grants.next_sequence,
        )
        self.grants.issued(made, 0.0)
        return made

    def put(
        self,
        grant: Grant,
        body: bytes = b"[1]",
        *,
        path: str = path_to("alice", "light", "temp"),
        seed: bytes = BOB,
        token: bytes = b"",
        once: str | None = None,
    ) -> AppliedPut:
        put = SignedPut(
            path=path,
            content_type=JSON,
            content_digest=digest_of(body),
            grant=bytes_field(grant.data),
            idempotency_key=once,
        )
        nonce = (token or self.callee.token) + self.random.randbytes(16)
        signature_input, signature = sign_put(seed, put, created=1, nonce=nonce)
        put = replace(put, signature_input=signature_input, signature=signature)
        return AppliedPut(put=put, body=body, wait_ms=5_000, cbor=False)

    def receive(
        self, applied: AppliedPut, now: float = 0.0, ident: bytes = FIRST
    ) -> Run | Answer | None:
        return self.calls.receive(ident, encode_put(applied), now)

    def run(self, applied: AppliedPut, now: float = 0.0, ident: bytes = FIRST) -> Run:
        run = self.receive(applied, now, ident)
        assert isinstance(run, Run)
        return run


def said(answer: Run | Answer | None, applied: AppliedPut) -> tuple[int, Any]:
    """Status and JSON of an answer that is Alice's, to this PUT."""
    assert isinstance(answer, Answer)
    assert answer.to == APPLY_KEY
    came: AppliedAnswer = decode_answer(answer.body)
    verify_answer(
        KEY[ALICE],
        applied.put,
        came.status,
        came.content_type,
        came.content_digest,
        came.signature_input,
        came.signature,
    )
    check_digest(came.content_digest, came.body)
    return came.status, json.loads(came.body)


def refusal(answer: Run | Answer | None, applied: AppliedPut) -> tuple[int, str]:
    status, document = said(answer, applied)
    return status, document["error"]["kind"]


def test_a_put_runs_and_its_answer_is_signed() -> None:
    node = Node()
    applied = node.put(node.grant(), b'[1, {"$bytes": "AA=="}]')
    run = node.run(applied)
    assert (run.target, loads(run.arguments), run.span_s) == ("light/temp", [1, b"\0"], 5.0)
    assert run.right.caller == KEY[BOB] and run.record is None
    [answer], record = node.callee.finish(run.ticket, dumps(20.5), 1.0)
    assert record is None and answer.re == FIRST
    assert said(answer, applied) == (200, 20.5)


def test_the_key_s_text_names_the_node_too_and_other_names_do_not() -> None:
    node = Node()
    grant = node.grant()
    node.run(node.put(grant, path=path_to(key_to_text(KEY[ALICE]), "light", "temp")))
    for name in ("bob", "alice@host", key_to_text(KEY[BOB])):
        applied = node.put(grant, path=path_to(name, "light", "temp"))
        assert refusal(node.receive(applied), applied) == (404, "NoConnection")


def test_a_replay_is_refused_and_a_second_delivery_is_not_answered_twice() -> None:
    node = Node()
    applied = node.put(node.grant())
    run = node.run(applied)
    assert node.receive(applied) is None  # the relay brings it again, while it runs
    assert refusal(node.receive(applied, ident=b"2" * 16), applied) == (409, "replayed")
    [answer], _ = node.callee.finish(run.ticket, dumps(1), 1.0)
    assert said(answer, applied) == (200, 1)
    assert node.receive(applied, 2.0) is None
    for now in (2.0, TOKENS_MAX * TOKEN_S + 1, (2 * TOKENS_MAX - 1) * TOKEN_S):
        answer_again = node.receive(applied, now, b"3" * 16)
        assert refusal(answer_again, applied) == (409, "replayed")
    relabelled = replace(
        applied,
        put=replace(
            applied.put,
            signature_input=applied.put.signature_input.replace("drupelet=(", "other=("),
            signature=applied.put.signature.replace("drupelet=", "other=", 1),
        ),
    )
    assert refusal(node.receive(relabelled, 2.0, b"4" * 16), relabelled) == (409, "replayed")


def test_a_refused_put_cannot_be_said_again() -> None:
    node = Node()
    grant = node.grant(terms=Terms(rate=(1, 60)))
    node.run(node.put(grant))
    applied = node.put(grant)
    assert refusal(node.receive(applied), applied) == (429, "RateLimited")
    assert refusal(node.receive(applied, ident=b"2" * 16), applied) == (409, "replayed")


def test_an_old_token_is_told_with_the_newest_and_a_new_signature_runs() -> None:
    node = Node()
    grant = node.grant()
    applied = node.put(grant)
    late = TOKENS_MAX * TOKEN_S
    status, document = said(node.receive(applied, late), applied)
    assert (status, document["error"]["kind"]) == (401, "stale")
    assert document["error"]["maybe_ran"] is False  # this node, as it runs, would know
    assert bytes.fromhex(document["error"]["token"]) == node.callee.token
    node.run(node.put(grant, token=bytes.fromhex(document["error"]["token"])), late)
    node.run(node.put(grant), late + (TOKENS_MAX - 1) * TOKEN_S)


def test_after_a_restart_of_the_node_nothing_old_counts() -> None:
    node = Node()
    grant = node.grant()
    applied = node.put(grant)
    node.run(applied)
    node.callee = Callee(ALICE, node.grants, node.random.randbytes, 1.0)
    node.calls = HttpCalls(node.callee, ALICE, "alice")
    status, document = said(node.receive(applied, 1.0), applied)
    assert (status, document["error"]["kind"]) == (401, "stale")
    assert document["error"]["maybe_ran"] is True


def test_what_is_not_granted_is_one_answer_and_is_noted() -> None:
    node = Node()
    grant = node.grant()
    for path in ("off", "nothing"):
        applied = node.put(grant, path=path_to("alice", "light", path))
        assert refusal(node.receive(applied), applied) == (403, "NotPermitted")
    applied = node.put(grant, path=path_to("alice", "other", "temp"))
    assert refusal(node.receive(applied), applied) == (403, "NotPermitted")
    stolen = node.put(grant, seed=EVE)
    for ident in (FIRST, b"2" * 16):  # nothing of it is remembered
        assert refusal(node.receive(stolen, ident=ident), stolen) == (403, "NotPermitted")
    assert [(key, target) for key, target, _ in node.refused] == [
        (KEY[BOB], "light/off"),
        (KEY[BOB], "light/nothing"),
        (KEY[BOB], "other/temp"),
        *[(KEY[EVE], "light/temp")] * 2,
    ]


def test_who_has_no_grant_of_ours_fills_no_table_and_learns_no_token() -> None:
    node = Node()
    own = issue(EVE, KEY[EVE], "light", Terms(), bytes(8), sequence=1)
    for token in (b"", b"old!" * 4):
        applied = node.put(own, seed=EVE, token=token)
        for ident in (FIRST, b"2" * 16):  # not remembered: the same answer, whoever repeats it
            assert refusal(node.receive(applied, ident=ident), applied) == (403, "NotPermitted")
    assert node.callee._freshness._count == 0


def test_a_revoked_grant_is_told() -> None:
    node = Node()
    grant = node.grant()
    node.grants.revoke(grant.id, 0.0)
    applied = node.put(grant)
    assert refusal(node.receive(applied), applied) == (403, "Revoked")


def test_arguments_that_are_none_are_told_and_charged_to_nobody() -> None:
    node = Node()
    grant = node.grant(terms=Terms(rate=(1, 60)))
    applied = node.put(grant, b"{}")
    assert refusal(node.receive(applied), applied) == (422, "badarg")
    node.run(node.put(grant))


def test_the_grant_s_bytes_are_those_of_the_arguments() -> None:
    node = Node()
    grant = node.grant(terms=Terms(bytes=10))
    applied = node.put(grant, b'["%s"]' % (b"x" * 20))
    assert refusal(node.receive(applied), applied) == (403, "NotPermitted")


def test_an_idempotency_key_runs_once_and_is_answered_alike() -> None:
    node = Node()
    grant = node.grant()
    first, second = node.put(grant, once="k"), node.put(grant, once="k")
    run = node.run(first)
    assert run.record is not None and run.record.caller == KEY[BOB]
    assert node.receive(second, ident=b"2" * 16) is None  # waits for the first
    answers, record = node.callee.finish(run.ticket, dumps(7), 1.0)
    assert record is not None
    assert [said(each, put) for each, put in zip(answers, (first, second), strict=True)] == [
        (200, 7),
        (200, 7),
    ]
    third = node.put(grant, once="k")
    assert said(node.receive(third, 2.0, b"3" * 16), third) == (200, 7)
    assert run.record.key == key_bytes("k")  # as `drupelet call --key k` says it
    longest = node.put(grant, once="k" * IDEMPOTENCY_KEY_BYTES_MAX)
    node.run(longest, ident=b"5" * 16)
    other = node.put(grant, b"[2]", once="k")
    assert refusal(node.receive(other, 2.0, b"4" * 16), other) == (422, "badarg")


def test_a_narrowed_grant_and_each_failure() -> None:
    node = Node()
    grant = node.grant(terms=Terms(delegable=1))
    eves = narrow(grant, BOB, KEY[EVE], Terms(functions=("temp",)), bytes(8))
    for outcome, status in (
        (RateLimited(1.0), 429),
        (Timeout(True), 504),
        (RemoteError("ValueError", "no"), 500),
    ):
        applied = node.put(eves, seed=EVE)
        run = node.run(applied, ident=node.random.randbytes(16))
        [answer], _ = node.callee.finish(run.ticket, outcome, 1.0)
        assert said(answer, applied)[0] == status


FIELDS = ("path", "content_type", "content_digest", "grant", "signature_input", "signature")


@given(name=st.sampled_from([*FIELDS, "body"]), place=st.integers(0, 2_000), data=st.data())
def test_whatever_a_relay_alters_nothing_runs_and_the_refusal_is_the_node_s(
    name: str, place: int, data: st.DataObject
) -> None:
    node = Node()
    applied = node.put(node.grant())
    if name == "body":
        value: Any = applied.body
        letter: Any = bytes([data.draw(st.integers(0, 255))])
    else:
        value = getattr(applied.put, name)
        letter = data.draw(st.characters(max_codepoint=0x7F))
    place %= len(value)
    edited = value[:place] + letter + value[place + 1 :]
    if name == "body":
        changed = replace(applied, body=edited)
    else:
        changed = replace(applied, put=replace(applied.put, **{name: edited}))
    got = node.receive(changed)
    if edited == value:
        assert isinstance(got, Run)
        return
    if got is not None:
        with pytest.raises(RemoteProtocolError):  # it says nothing of the PUT that was signed
            said(got, applied)
        nobody = replace(changed, put=replace(changed.put, signature="unsigned"))
        assert refusal(got, nobody) == (401, "unsigned")
    node.run(applied, ident=b"2" * 16)  # what was altered has used up nothing


def test_junk_of_a_relay_is_dropped() -> None:
    node = Node()
    for junk in (b"", b"\x80", dumps([None] * 10), bytes(300_000)):
        assert node.calls.receive(FIRST, junk, 0.0) is None
    assert node.callee.dropped_count == 4
    assert decode_put(encode_put(node.put(node.grant())))


def test_what_was_seen_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "APPLY_SEEN_MAX", 2)
    node = Node()
    grant = node.grant()
    puts = [node.put(grant) for _ in range(3)]
    for number, applied in enumerate(puts[:2]):
        node.run(applied, ident=bytes([number]) * 16)
    assert node.receive(puts[0], ident=bytes(16)) is None
    node.run(puts[2], ident=b"\2" * 16)
    # the oldest is forgotten: a second delivery of it counts as a replay, and still does not run
    assert refusal(node.receive(puts[0], ident=bytes(16)), puts[0]) == (409, "replayed")
