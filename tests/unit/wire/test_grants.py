"""Grants: what is granted holds, what is narrowed is less, and nothing else passes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.grants import (
    GRANT_DOMAIN,
    ID_BYTES,
    Grant,
    Terms,
    decode_grant,
    describe,
    issue,
    narrow,
    narrowing_problem,
)
from drupelet.wire.limits import (
    BODY_BYTES_MAX,
    GRANT_BYTES_MAX,
    GRANT_FUNCTIONS_MAX,
    GRANT_LINKS_MAX,
)
from drupelet.wire.signing import sign

ALICE, BOB, CHARLIE, DAVE = (bytes([number]) * 32 for number in (1, 2, 3, 4))
KEY = {seed: sodium.ed25519_public(seed) for seed in (ALICE, BOB, CHARLIE, DAVE)}
NONCE = b"01234567"
NAMES = ["boil", "cool", "Oven.heat", "temp"]

TERMS = st.builds(
    Terms,
    functions=st.none()
    | st.sets(st.sampled_from(NAMES), min_size=1).map(lambda s: tuple(sorted(s))),
    rate=st.none() | st.tuples(st.integers(1, 100), st.sampled_from([1, 7, 60, 3_600])),
    concurrent=st.none() | st.integers(1, 8),
    bytes=st.none() | st.integers(1, 1_000),
    expires_s=st.none() | st.integers(1, 1_000_000),
    delegable=st.integers(0, GRANT_LINKS_MAX - 1),
)


def granted(terms: Terms = Terms(delegable=3)) -> Grant:  # noqa: B008
    return issue(ALICE, KEY[BOB], "kitchen", terms, NONCE, sequence=7)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TERMS)
def test_what_is_issued_is_read_back(terms: Terms) -> None:
    grant = granted(terms)
    again = decode_grant(grant.data)
    assert again == grant
    assert (again.issuer, again.holder, again.mission) == (KEY[ALICE], KEY[BOB], "kitchen")
    assert again.sequence == 7
    assert again.terms == terms
    assert describe(again).endswith(".")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(TERMS, TERMS)
def test_narrowing_never_adds(first: Terms, second: Terms) -> None:
    grant = granted(first)
    try:
        less = narrow(grant, BOB, KEY[CHARLIE], second, NONCE)
    except ValueError as error:
        assert str(error) == narrowing_problem(first, second)
        with pytest.raises(RemoteProtocolError, match="widened"):
            forge(grant, BOB, CHARLIE, second)
        return
    left = less.terms
    for name in (*NAMES, "other"):
        assert grant.allows(name) or not less.allows(name)
    if first.rate is not None:
        assert left.rate is not None
        assert left.rate[0] * first.rate[1] <= first.rate[0] * left.rate[1]
    for field in ("concurrent", "bytes", "expires_s"):
        limit, value = getattr(first, field), getattr(left, field)
        assert limit is None or (value is not None and value <= limit)
    assert left.delegable < first.delegable
    assert less.links[0] == grant.links[0]


def forge(grant: Grant, signer: bytes, holder: bytes, terms: Terms) -> Grant:
    """What a holder who does not ask `narrow` would make."""
    alone = issue(signer, KEY[holder], "kitchen", terms, NONCE, sequence=7)
    fields = loads_canonical(loads_canonical(alone.data)[0])
    del fields[1], fields[4], fields[13]
    content = dumps(fields)
    signature = sign(signer, GRANT_DOMAIN, grant.id + content).signature
    return decode_grant(dumps([*loads_canonical(grant.data), content, signature]))


def test_a_chain_of_the_greatest_length_and_one_longer() -> None:
    grant = granted()
    for signer, holder, depth in ((BOB, CHARLIE, 2), (CHARLIE, DAVE, 1), (DAVE, BOB, 0)):
        grant = narrow(grant, signer, KEY[holder], Terms(delegable=depth), NONCE)
    assert len(grant.links) == GRANT_LINKS_MAX
    assert [link.holder for link in grant.links] == [KEY[BOB], KEY[CHARLIE], KEY[DAVE], KEY[BOB]]
    with pytest.raises(ValueError, match="cannot be handed on"):
        narrow(grant, BOB, KEY[DAVE], Terms(), NONCE)
    with pytest.raises(RemoteProtocolError, match="at most 4 links"):
        forge(grant, BOB, DAVE, Terms())


def test_three_links_fit_into_600_bytes() -> None:
    terms = Terms(
        functions=("boil", "Oven.heat"), rate=(10, 1), burst=20, concurrent=2, delegable=2
    )
    grant = granted(terms)
    grant = narrow(grant, BOB, KEY[CHARLIE], Terms(functions=("boil",), delegable=1), NONCE)
    grant = narrow(grant, CHARLIE, KEY[DAVE], Terms(rate=(1, 60), expires_s=86_400), NONCE)
    assert len(grant.data) <= 600


def test_only_the_holder_narrows() -> None:
    with pytest.raises(ValueError, match="another key"):
        narrow(granted(), CHARLIE, KEY[DAVE], Terms(), NONCE)
    with pytest.raises(RemoteProtocolError, match="verify"):
        forge(granted(), CHARLIE, DAVE, Terms())


def test_a_link_does_not_fit_another_chain() -> None:
    one = granted()
    other = issue(ALICE, KEY[BOB], "kitchen", Terms(delegable=3), b"another!", sequence=8)
    assert one.id != other.id
    tail = loads_canonical(narrow(one, BOB, KEY[CHARLIE], Terms(), NONCE).data)[2:]
    with pytest.raises(RemoteProtocolError, match="verify"):
        decode_grant(dumps([*loads_canonical(other.data), *tail]))
    with pytest.raises(RemoteProtocolError):
        decode_grant(dumps(tail))


def chain() -> Grant:
    terms = Terms(functions=("boil", "cool"), rate=(10, 1), concurrent=3, bytes=99, delegable=2)
    return narrow(granted(terms), BOB, KEY[CHARLIE], Terms(functions=("boil",), rate=(1, 1)), NONCE)


def test_no_byte_can_be_changed_or_cut() -> None:
    data = chain().data
    for place in range(len(data)):
        for flip in (0x01, 0x20, 0x80):
            changed = bytearray(data)
            changed[place] ^= flip
            with pytest.raises(RemoteProtocolError):
                decode_grant(bytes(changed))
        with pytest.raises(RemoteProtocolError):
            decode_grant(data[:place])


FIELDS: list[tuple[object, object]] = [
    (1, KEY[CHARLIE]), (2, b"short"), (2, None), (3, b"x"), (4, 7), (4, "node"), (5, []),
    (5, ["b", "a"]), (5, ["a", "a"]), (5, ["__import__ os"]), (5, [1]), (5, "boil"), (6, [0, 1]),
    (6, [1, 0]), (6, [1, 1, 1]), (6, [True, 1]), (6, 5), (7, 0), (7, 10_000_000), (8, -1),
    (9, BODY_BYTES_MAX + 1), (10, 2**62), (10, True), (11, 0), (11, 4), (12, False), (12, 1),
    (13, 0), (13, 2**62), (13, True), (13, None), (14, "unknown"), ("2", KEY[DAVE]),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), FIELDS)
def test_fields_of_a_signed_link_are_checked(key: object, value: object) -> None:
    """Even the issuer cannot sign what is no grant."""
    (content, _) = loads_canonical(granted(Terms(rate=(5, 1))).data)
    fields: dict[object, object] = loads_canonical(content)
    fields[key] = value
    if value is None:
        del fields[key]
    content = dumps(fields)
    signature = sign(ALICE, GRANT_DOMAIN, bytes(16) + content).signature
    with pytest.raises(RemoteProtocolError):
        decode_grant(dumps([content, signature]))


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\xa0", dumps([b"x"]), dumps([b"x", b"y"]), dumps([1, 2]), dumps("x"),
             dumps([b"\xa0", bytes(64)]), dumps([b"\x01", bytes(64)])],
)  # fmt: skip
def test_what_is_no_grant(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_grant(data)


def test_size_at_the_maximum_and_one_above() -> None:
    with pytest.raises(RemoteProtocolError, match="at most 8192"):
        decode_grant(bytes(GRANT_BYTES_MAX + 1))
    with pytest.raises(RemoteProtocolError, match="bytes after"):
        decode_grant(bytes(GRANT_BYTES_MAX))
    names = tuple(f"f{number:02}" for number in range(GRANT_FUNCTIONS_MAX))
    assert granted(Terms(functions=names)).terms.functions == names
    with pytest.raises(ValueError, match="65 functions"):
        granted(Terms(functions=(*names, "more")))


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (Terms(functions=()), "0 functions"),
        (Terms(functions=("os system",)), "not a name"),
        (Terms(rate=(0, 1)), "a rate is"),
        (Terms(rate=(1, 86_401)), "a rate is"),
        (Terms(burst=3), "belongs to a rate"),
        (Terms(concurrent=0), "concurrent is 1 to"),
        (Terms(expires_s=-5), "expires_s is 1 to"),
        (Terms(delegable=4), "delegable is 0 to 3"),
    ],
)
def test_terms_that_make_no_sense(terms: Terms, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        granted(terms)


def test_a_mission_of_the_daemon_is_not_for_strangers() -> None:
    for mission in ("node", "process", "code", "no such name", ""):
        with pytest.raises(ValueError, match="name"):
            issue(ALICE, KEY[BOB], mission, Terms(), NONCE, sequence=1)
    with pytest.raises(ValueError, match="a key 32"):
        issue(ALICE, b"short", "kitchen", Terms(), NONCE, sequence=1)


def test_one_plain_sentence() -> None:
    names = {KEY[ALICE]: "alice", KEY[BOB]: "bob"}
    terms = Terms(functions=("boil", "cool"), rate=(10, 60), expires_s=30 * 86_400, delegable=1)
    assert describe(granted(terms), names) == (
        "bob may call boil and cool of the mission kitchen on alice, 10 times a minute, for 30 "
        "days; it can be handed on once."
    )
    everything = Terms(rate=(1, 90), burst=1, concurrent=2, bytes=10)
    assert describe(granted(everything), names) == (
        "bob may call every function of the mission kitchen on alice, once in 90 seconds, 2 at the "
        "same time, with arguments of at most 10 bytes, until it is revoked."
    )
    bearer = issue(
        ALICE, KEY[BOB], "kitchen", Terms(rate=(5, 1), burst=9), NONCE, sequence=1, bearer=True
    )
    assert describe(bearer).startswith("Whoever has this file may call every function")
    assert "5 times a second and 9 at once" in describe(bearer)


def test_ids_bind_all_before() -> None:
    grant = chain()
    assert len({link.id for link in grant.links}) == 2
    assert grant.id_text == grant.links[-1].id.hex()
    assert len(grant.id) == ID_BYTES
