"""drupelet.cddl against the code: tags, error codes, kinds of frames, and the keys of each map.

Not a CDDL validator (none is small enough to depend on): it compares the names and numbers that go
stale when somebody changes a message and not its description.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import drupelet.wire
from drupelet import errors
from drupelet.wire import bundles, codec, frames, limits
from drupelet.wire.messages import discovery, links, membership, workers

TEXT = (Path(drupelet.wire.__path__[0]) / "drupelet.cddl").read_text()
PLAIN = re.sub(r";.*", "", TEXT)
RULES = {
    name: body
    for name, body in re.findall(
        r"^([a-z][a-z0-9-]*) = (.*?)(?=^[a-z][a-z0-9-]* = |\Z)", PLAIN, re.MULTILINE | re.DOTALL
    )
}
PRELUDE = {"true", "nil", "bool", "float", "tstr", "bstr", "int"}


def keys(rule: str) -> set[str]:
    return set(re.findall(r'"(\w+)" =>', RULES[rule]))


def test_every_name_in_it_is_defined_and_used() -> None:
    used = {"value"}
    for body in RULES.values():
        bare = re.sub(r'"(?:\\.|[^"\\])*"', "", body)
        bare = re.sub(r"[a-z-]+:", "", bare)  # names of fields
        bare = re.sub(r"\.(size|regexp|cbor)", "", bare)
        used |= set(re.findall(r"(?<![\w.#-])[a-z][a-z0-9-]*", bare))
    assert used - PRELUDE <= set(RULES)
    tops = {rule for rule in RULES if rule.endswith(("-body", "-args", "-value"))}
    assert set(RULES) - used == tops | {
        "bundle",
        "introduction",
        "signed-request",
        "signed-reply",
        "refusal",
        "name",
    }


def test_tags_are_those_of_the_codec() -> None:
    tags = {name: int(number) for name, number in re.findall(r"^(\S+) = #6\.(\d+)", PLAIN, re.M)}
    assert tags == {
        "tuple": codec.TAG_TUPLE,
        "pid": codec.TAG_PID,
        "ref": codec.TAG_REF,
        "datetime": codec.TAG_DATETIME,
        "datetime-seconds": codec.TAG_DATETIME_SECONDS,
        "uuid": codec.TAG_UUID,
        "notice": codec.TAG_NOTICE,
        "proxy-pid": codec.TAG_PROXY,
        "named": codec.TAG_TUPLE,
        "caller": codec.TAG_TUPLE,
    }
    assert set(tags.values()) == set(codec._DECODERS)


def test_every_kind_of_frame_is_there() -> None:
    for kind in frames.Kind:
        assert re.search(rf"\b{kind.name}\b", TEXT), kind.name


def test_numbers_are_those_of_the_limits() -> None:
    assert f"<= {limits.VALUE_DEPTH_MAX} containers deep" in TEXT
    assert f"at most {limits.MAP_INT_KEYS_MAX:,} keys are integers" in TEXT
    assert f"[*{limits.GOSSIP_NODES_MAX} [" in RULES["gossip"]
    assert f"1..{limits.NAME_CHARS_MAX} characters" in TEXT
    assert f"1*{limits.BUNDLE_MODULES_MAX} tstr => bstr" in RULES["bundle"]


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ("remote-error", errors.RemoteError("k", "m", "t")),
        ("timeout", errors.Timeout(True)),
        ("no-connection", errors.NoConnection("down")),
        ("not-permitted", errors.NotPermitted()),
        ("code-mismatch", errors.CodeMismatch("a", "b")),
        ("rate-limited", errors.RateLimited(0.5)),
        ("revoked", errors.Revoked()),
    ],
)
def test_error_arrays(rule: str, error: errors.CallError) -> None:
    fields = errors.error_to_fields(error)
    written = [part.strip() for part in RULES[rule].strip().strip("[]").split(",")]
    assert int(written[0]) == fields[0]
    assert len(written) == len(fields)
    for part, field in zip(written[1:], fields[1:], strict=True):
        assert part.endswith({str: "tstr", bool: "bool", float: "float"}[type(field)])


def _introduction() -> bytes:
    return links.encode_introduction(
        links.PeerIntroduction(
            key=bytes(32),
            signature=bytes(64),
            name="gandalf",
            incarnation=1,
            port=1,
            versions=(1,),
            software="0",
            expect=bytes(32),
        )
    )


BUNDLE = bundles.Bundle(mission="kvs", load=("kvs",), modules={"kvs": b""})


def _body(frame: bytes) -> bytes:
    return frames.split_record(frame)[0].body


@pytest.mark.parametrize(
    ("rule", "data"),
    [
        ("introduction", _introduction()),
        ("refusal", links.encode_refusal(links.Refusal("version", (1,)))),
        ("welcome", links.encode_welcome(links.Welcome(ring="member"))),
        (
            "worker-order",
            workers.encode_order(workers.WorkerOrder(mission="kvs", modules=("kvs",))),
        ),
        ("worker-hello", workers.encode_hello(workers.WorkerHello({}, bytes(16)))),
        ("worker-failure", workers.encode_hello(workers.WorkerFailure(()))),
        ("bundle", bundles.encode_bundle(BUNDLE)),
        ("discovery-hello", _body(discovery.encode(discovery.Hello()))),
        (
            "discovery-start",
            _body(discovery.encode(discovery.Start(key_prefix="a" * 16, name="a", port=4370))),
        ),
    ],
)
def test_keys_of_each_map(rule: str, data: bytes) -> None:
    assert set(codec.loads_control(data)) == keys(rule)


def test_fields_of_gossip() -> None:
    node = membership.GossipNode(name="bilbo", key=bytes(32), host="192.168.1.7", port=1)
    data = membership.encode_gossip(membership.Gossip((node,)))
    assert len(codec.loads_control(data)[0]) == RULES["gossip"].count(",") + 1
    for rule, message in (
        ("found", discovery.Found(key_prefix="a" * 16, name="a", host="10.0.0.1", port=4370)),
        ("report", discovery.Report()),
    ):
        fields = codec.loads_control(_body(discovery.encode(message)))
        assert f'"{fields[0]}"' in RULES[rule]
        assert len(fields) == RULES[rule].count(",") + 1
