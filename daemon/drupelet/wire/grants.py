"""Grants: who may call which functions of a mission, how often, signed by who owns them.

Decides the bytes of a grant, what a holder may make of it for somebody else, and the sentence that
says what it allows. Whether a call is let through now, `core/grants.py` decides.

A grant is a chain of 1 to GRANT_LINKS_MAX links, one CBOR array:

    [content, signature, content, signature, ...]

The first link is signed by the owner of the mission (`issuer`), each further one by the holder of
the link before. A link's content is a deterministic CBOR map:

| key | value | links |
|---|---|---|
| 1 | issuer: Ed25519 key | first |
| 2 | holder: Ed25519 key | all |
| 3 | 8 random bytes, so that no two grants are alike | all |
| 4 | mission | first |
| 5 | functions; absent: all that the mission exports, now or later | all |
| 6 | [count, seconds]: the rate | all |
| 7 | burst: calls at once after a rest; absent: `count` | all |
| 8 | calls that may run at the same time | all |
| 9 | bytes of the arguments of one call | all |
| 10 | seconds from its signing (first), or from its first use (further ones) | all |
| 11 | how many links may follow; absent: none | all |
| 12 | true: the holder's secret key is in the file; whoever has that may call | all |
| 13 | sequence: 1, 2, ... of the issuer's grants | first |

    id         = BLAKE2b-128(id of the link before, or 16 zero bytes; content)
    signature  over "drupelet/grant/1", a zero byte, the id of the link before (or zeros), content

Rules
- The id binds a link to all before it, so a link cannot be put on another chain, and counters that
  are kept by id cannot be charged by a stranger who chose the same numbers.
- A further link may only take away: `narrowing_problem` says what would be more. What it leaves out
  is as before. All limits of all links hold, so ten sub-holders do not multiply a rate.
- No wall clock: spans are counted by the node that owns the mission.
- The signature covers the bytes as they travel; other encodings of the same map are refused.

References: macaroons (Birgisson et al., 2014) for narrowing by whoever holds one; Biscuit for
public keys in the place of HMACs, so that narrowing needs nobody; RFC 8949, 4.2.1.
Rejected: Biscuit itself (a Datalog interpreter at the door); JSON Web Tokens (a clock, and headers
that choose their own algorithm); X.509 (size, and parsers with a history).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.bundles import mission_problem
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.ids import check_plain_name
from drupelet.wire.keys import key_to_text
from drupelet.wire.limits import (
    BODY_BYTES_MAX,
    GRANT_BYTES_MAX,
    GRANT_FUNCTIONS_MAX,
    GRANT_LINKS_MAX,
)
from drupelet.wire.signing import sign
from drupelet.wire.sodium import KEY_BYTES, SIGNATURE_BYTES

GRANT_DOMAIN: Final = b"drupelet/grant/1"
NONCE_BYTES: Final = 8  # of one issuer's grants two are alike once in 2**32
ID_BYTES: Final = 16
_NO_ID: Final = bytes(ID_BYTES)
_SIGNED: Final = GRANT_DOMAIN + b"\0"  # as wire/signing.py has it; `data` is bounded

_COUNT_TOP: Final = 1_000_000  # calls; no Pi answers more
_PERIOD_TOP_S: Final = 86_400
_SPAN_TOP_S: Final = 10 * 366 * 86_400
_SEQUENCE_TOP: Final = 2**62  # no counter gets there
_TOPS: Final = {  # field -> the largest value that says something
    "burst": _COUNT_TOP,
    "concurrent": 1_024,
    "bytes": BODY_BYTES_MAX,
    "expires_s": _SPAN_TOP_S,
}
_KEYS: Final = {
    7: "burst",
    8: "concurrent",
    9: "bytes",
    10: "expires_s",
    11: "delegable",
}
_PAIR: Final = [int, int]
_SPANS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a link allows. None: as the link before, or without a limit in the first.

    `rate`: (calls, seconds). `bytes`: of one call's arguments. `delegable`: links that may follow.
    """

    functions: tuple[str, ...] | None = None
    rate: tuple[int, int] | None = None
    burst: int | None = None
    concurrent: int | None = None
    bytes: int | None = None
    expires_s: int | None = None
    delegable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link, its signature good. `signer` gave it, `holder` may use it."""

    id: bytes
    signer: bytes
    holder: bytes
    nonce: bytes
    terms: Terms
    bearer: bool = False


@dataclass(frozen=True)
class Grant:
    """A chain whose signatures hold and in which every link takes away. `data`: as it travels."""

    data: bytes
    mission: str
    sequence: int
    links: tuple[Link, ...]

    @cached_property
    def issuer(self) -> bytes:
        """The key of the mission's owner."""
        return self.links[0].signer

    @cached_property
    def holder(self) -> bytes:
        """The key that may use it."""
        return self.links[-1].holder

    @cached_property
    def id(self) -> bytes:
        """The last link's: 16 bytes."""
        return self.links[-1].id

    @cached_property
    def id_text(self) -> str:
        """The id as people see it."""
        return self.id.hex()

    @property
    def bearer(self) -> bool:
        """Whether whoever has the file may call."""
        return self.links[-1].bearer

    @cached_property
    def terms(self) -> Terms:
        """What is left after all links."""
        left = self.links[0].terms
        for link in self.links[1:]:
            left = _combined(left, link.terms)
        return left

    def allows(self, function: str) -> bool:
        """Whether the function is among those granted."""
        return self.terms.functions is None or function in self.terms.functions


# -- making


def issue(
    seed: bytes,
    holder: bytes,
    mission: str,
    terms: Terms,
    nonce: bytes,
    *,
    sequence: int,
    bearer: bool = False,
) -> Grant:
    """A grant by the identity of `seed`. `nonce`: 8 random bytes; `sequence`: above the last one's.

    Raises: `ValueError` with what is wrong, for a person.
    """
    problem = mission_problem(mission) or terms_problem(terms)
    if not problem and terms.delegable >= GRANT_LINKS_MAX:
        problem = f"a grant has at most {GRANT_LINKS_MAX} links: delegable is at most 3"
    if problem:
        raise ValueError(problem)
    first = {1: sodium.ed25519_public(seed), 4: mission, 13: sequence}
    return _extended(b"", _NO_ID, first, seed, holder, terms, nonce, bearer)


def narrow(
    grant: Grant, seed: bytes, holder: bytes, terms: Terms, nonce: bytes, *, bearer: bool = False
) -> Grant:
    """A grant for somebody else, by the holder of `grant`, whose seed is `seed`.

    Raises: `ValueError` with what is wrong, for a person.
    """
    if sodium.ed25519_public(seed) != grant.holder:
        raise ValueError("only the holder of a grant can narrow it; this is another key")
    problem = terms_problem(terms) or narrowing_problem(grant.terms, terms)
    if problem:
        raise ValueError(problem)
    return _extended(grant.data, grant.id, {}, seed, holder, terms, nonce, bearer)


def _extended(
    data: bytes,
    parent: bytes,
    first: Mapping[int, object],
    seed: bytes,
    holder: bytes,
    terms: Terms,
    nonce: bytes,
    bearer: bool,
) -> Grant:
    if len(nonce) != NONCE_BYTES or len(holder) != KEY_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes, a key {KEY_BYTES}")
    content: dict[int, object] = {**first, 2: holder, 3: nonce}
    if terms.functions is not None:
        content[5] = sorted(set(terms.functions))
    if terms.rate is not None:
        content[6] = list(terms.rate)
    for key, field in _KEYS.items():
        value = getattr(terms, field)
        if value is not None and (value or field != "delegable"):
            content[key] = value
    if bearer:
        content[12] = True
    encoded = dumps(content)
    signature = sign(seed, GRANT_DOMAIN, parent + encoded).signature
    before = loads_canonical(data) if data else []
    return decode_grant(dumps([*before, encoded, signature]))


# -- reading


def decode_grant(data: bytes) -> Grant:
    """The grant in `data`, every signature checked: 65 us for each link, 55 of them for its
    signature.

    Raises: `RemoteProtocolError` with what is wrong.
    """
    if len(data) > GRANT_BYTES_MAX:
        raise RemoteProtocolError(f"grant of {len(data)} bytes; at most {GRANT_BYTES_MAX}")
    parts = loads_canonical(data)
    if not isinstance(parts, list) or not parts or len(parts) % 2:
        raise RemoteProtocolError("malformed grant")
    if len(parts) > 2 * GRANT_LINKS_MAX:
        raise RemoteProtocolError(f"a grant has at most {GRANT_LINKS_MAX} links")
    links: list[Link] = []
    mission, sequence = "", 0
    left = Terms()
    parent = _NO_ID
    count = len(parts) // 2
    for content, signature in zip(parts[::2], parts[1::2], strict=True):
        if not isinstance(content, bytes) or not isinstance(signature, bytes):
            raise RemoteProtocolError("malformed grant")
        fields = loads_canonical(content)
        if not isinstance(fields, dict):
            raise RemoteProtocolError("malformed link of a grant")
        if links:
            signer = links[-1].holder
        else:
            signer = _key(fields.pop(1, None))
            mission = _mission(fields.pop(4, None))
            sequence = _sequence(fields.pop(13, None))
        link = _decode_link(fields, signer, parent, content)
        sodium.verify(signer, _SIGNED + parent + content, signature)
        if links:
            problem = narrowing_problem(left, link.terms)
            if problem:
                raise RemoteProtocolError(f"widened grant: {problem}")
            if len(links) + 1 < count:  # the last one's are computed when they are asked for
                left = _combined(left, link.terms)
        else:
            left = link.terms
        parent = link.id
        links.append(link)
    return Grant(data, mission, sequence, tuple(links))


def _decode_link(
    fields: dict[object, object], signer: bytes, parent: bytes, content: bytes
) -> Link:
    holder, nonce = _key(fields.pop(2, None)), fields.pop(3, None)
    if not isinstance(nonce, bytes) or len(nonce) != NONCE_BYTES:
        raise RemoteProtocolError("malformed link of a grant")
    functions: tuple[str, ...] | None = None
    names = fields.pop(5, None)
    if names is not None:
        if type(names) is not list:
            raise RemoteProtocolError("malformed link of a grant")
        functions = tuple([name for name in names if isinstance(name, str)])
        if names != sorted(set(functions)):
            raise RemoteProtocolError("grant: functions that are no sorted names")
    rate: tuple[int, int] | None = None
    pair = fields.pop(6, None)
    if pair is not None:
        if type(pair) is not list or [type(each) for each in pair] != _PAIR:
            raise RemoteProtocolError("malformed link of a grant")
        rate = (pair[0], pair[1])
    numbers: dict[str, int] = {}
    bearer = fields.pop(12, None)
    for key, value in fields.items():
        field = _KEYS.get(key) if type(key) is int else None
        if field is None or type(value) is not int or (field == "delegable" and not value):
            raise RemoteProtocolError("malformed link of a grant")
        numbers[field] = value
    if not (bearer is None or bearer is True):
        raise RemoteProtocolError("malformed link of a grant")
    terms = Terms(functions=functions, rate=rate, **numbers)
    problem = terms_problem(terms)
    if problem:
        raise RemoteProtocolError(f"grant: {problem}")
    return Link(
        id=blake2b(parent + content, digest_size=ID_BYTES).digest(),
        signer=signer,
        holder=holder,
        nonce=nonce,
        terms=terms,
        bearer=bearer is True,
    )


def _key(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != KEY_BYTES:
        raise RemoteProtocolError("grant: malformed key")
    return value


def _mission(value: object) -> str:
    problem = mission_problem(value)
    if problem or not isinstance(value, str):
        raise RemoteProtocolError(f"grant: {problem}")
    return value


def _sequence(value: object) -> int:
    if type(value) is not int or not 0 < value < _SEQUENCE_TOP:
        raise RemoteProtocolError("grant: sequence number out of range")
    return value


# -- what is more, and what is left


def narrowing_problem(left: Terms, wanted: Terms) -> str:
    """What `wanted` would add to what is left, in one sentence, or ""."""
    if not left.delegable:
        return "this grant cannot be handed on; ask its issuer for one with --delegable"
    if wanted.delegable >= left.delegable:
        return f"at most {left.delegable - 1} further links may follow, not {wanted.delegable}"
    if left.functions is not None:
        others = sorted(set(wanted.functions or ()) - set(left.functions))
        if others:
            return f"{others[0]} is not among the functions of this grant"
    if left.rate is not None and wanted.rate is not None:
        (calls, period), (more, shorter) = left.rate, wanted.rate
        if more * period > calls * shorter:
            return f"{_rate(wanted.rate)} is more than {_rate(left.rate)}"
    burst = _burst(left)
    if burst is not None and wanted.burst is not None and wanted.burst > burst:
        return f"a burst of {wanted.burst} is more than {burst}"
    for field in ("concurrent", "bytes", "expires_s"):
        limit, value = getattr(left, field), getattr(wanted, field)
        if limit is not None and value is not None and value > limit:
            return f"{field} {value} is more than {limit}"
    return ""


def _combined(left: Terms, link: Terms) -> Terms:
    """What is left after another link, which `narrowing_problem` let through."""
    bursts = [each for each in (_burst(left), _burst(link)) if each is not None]
    return Terms(
        functions=left.functions if link.functions is None else link.functions,
        rate=left.rate if link.rate is None else link.rate,
        burst=min(bursts) if bursts else None,
        concurrent=left.concurrent if link.concurrent is None else link.concurrent,
        bytes=left.bytes if link.bytes is None else link.bytes,
        expires_s=left.expires_s if link.expires_s is None else link.expires_s,
        delegable=link.delegable,
    )


def _burst(terms: Terms) -> int | None:
    if terms.burst is None and terms.rate is not None:
        return terms.rate[0]
    return terms.burst


def terms_problem(terms: Terms) -> str:
    """What is wrong with terms in themselves, in one sentence, or ""."""
    if terms.functions is not None:
        if not 0 < len(terms.functions) <= GRANT_FUNCTIONS_MAX:
            return f"{len(terms.functions)} functions; a grant names 1 to {GRANT_FUNCTIONS_MAX}"
        for name in terms.functions:
            try:
                check_plain_name(name)
            except ValueError as error:
                return str(error)
    if terms.rate is not None:
        count, period = terms.rate
        if not (0 < count <= _COUNT_TOP and 0 < period <= _PERIOD_TOP_S):
            return f"a rate is 1 to {_COUNT_TOP} calls in 1 to {_PERIOD_TOP_S} seconds"
    elif terms.burst is not None:
        return "a burst belongs to a rate; say both"
    for field, top in _TOPS.items():
        value = getattr(terms, field)
        if value is not None and not 0 < value <= top:
            return f"{field} is 1 to {top}, not {value}"
    if not 0 <= terms.delegable < GRANT_LINKS_MAX:
        return f"delegable is 0 to {GRANT_LINKS_MAX - 1}, not {terms.delegable}"
    return ""


# -- for people


def describe(grant: Grant, names: Mapping[bytes, str] | None = None) -> str:
    """What the grant allows, in one sentence. `names`: of keys that the reader knows."""
    known = names or {}
    terms = grant.terms
    if grant.bearer:
        who = "Whoever has this file"
    else:
        who = known.get(grant.holder) or f"The holder of key {key_to_text(grant.holder)[:8]}..."
    owner = known.get(grant.issuer) or f"the node with key {key_to_text(grant.issuer)[:8]}..."
    what = "every function" if terms.functions is None else _listed(terms.functions)
    sentence = f"{who} may call {what} of the mission {grant.mission} on {owner}"
    if terms.rate is not None:
        sentence += f", {_rate(terms.rate)}"
        burst = _burst(terms)
        if burst != terms.rate[0]:
            sentence += f" and {burst} at once"
    if terms.concurrent is not None:
        sentence += f", {terms.concurrent} at the same time"
    if terms.bytes is not None:
        sentence += f", with arguments of at most {terms.bytes} bytes"
    sentence += f", for {_span(terms.expires_s)}" if terms.expires_s else ", until it is revoked"
    if terms.delegable:
        sentence += f"; it can be handed on {_times(terms.delegable)}"
    return sentence + "."


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _rate(rate: tuple[int, int]) -> str:
    count, period = rate
    for seconds, noun in _SPANS:
        if period == seconds:
            return f"{_times(count)} a {noun}"
    return f"{_times(count)} in {_span(period)}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _span(span_s: int) -> str:
    for seconds, noun in _SPANS:
        if span_s % seconds == 0:
            count = span_s // seconds
            return f"{count} {noun}{'s' if count > 1 else ''}"
    raise AssertionError(span_s)


assert SIGNATURE_BYTES == 64  # three links fit 600 bytes
