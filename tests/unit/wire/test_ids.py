"""Pids, refs and names: text forms, ranges, and refusals that teach."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.wire import limits
from drupelet.wire.ids import NUMBER_MAX, Pid, ProxyPid, Ref, check_name, check_plain_name, in_order

NUMBERS = st.integers(0, NUMBER_MAX)
NAMES = st.from_regex(
    r"[A-Za-z0-9_][A-Za-z0-9_-]{0,20}(\.[a-z]{1,9})?(@[a-z]([a-z0-9.]{0,9}[a-z])?)?", fullmatch=True
)


def test_text_forms_are_those_of_erlang() -> None:
    assert str(Pid("gandalf", 17, 42)) == "<gandalf.17.42>"
    assert str(Ref("gandalf@192.168.1.7", 0, 1)) == "#Ref<gandalf@192.168.1.7.0.1>"


@settings(derandomize=True, deadline=None)
@given(NAMES, NUMBERS, NUMBERS)
def test_text_forms_come_back(node: str, incarnation: int, number: int) -> None:
    pid, ref = Pid(node, incarnation, number), Ref(node, incarnation, number)
    assert Pid.from_text(str(pid)) == pid
    assert Ref.from_text(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<gandalf.17>",
        "gandalf.17.42",
        "<gandalf.17.42> ",
        "<gandalf.17.042>",
        "<gandalf.-1.42>",
        "<gandalf.1.9223372036854775808>",
        "<.1.2>",
        "<a b.1.2>",
        "<<gandalf.17.42>>",
        "#Ref<gandalf.17.42>",
        "<gandalf.17.\N{ARABIC-INDIC DIGIT FOUR}>",
    ],
)
def test_other_text_is_no_pid(text: str) -> None:
    with pytest.raises(ValueError):
        Pid.from_text(text)


def test_a_pid_is_no_ref() -> None:
    assert Pid("a", 1, 2) != Ref("a", 1, 2)
    with pytest.raises(ValueError, match="#Ref<gandalf"):
        Ref.from_text("<gandalf.17.42>")


@pytest.mark.parametrize("cls", [Pid, Ref])
def test_numbers_at_the_maximum_and_one_above(cls: type[Pid] | type[Ref]) -> None:
    assert cls("a", NUMBER_MAX, 0).incarnation == NUMBER_MAX
    assert cls("a", 0, NUMBER_MAX).number == NUMBER_MAX
    for parts in ((NUMBER_MAX + 1, 0), (0, NUMBER_MAX + 1), (-1, 0), (0, -1), (True, 0), (0, 1.0)):
        with pytest.raises(ValueError):
            cls("a", *parts)  # type: ignore[arg-type]
    for node in (b"a", None, "", "a b", "a@", 7):
        with pytest.raises(ValueError):
            cls(node, 0, 0)  # type: ignore[arg-type]


def test_ids_are_frozen_and_hashable() -> None:
    pid = Pid("a", 1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        pid.number = 3  # type: ignore[misc]
    assert len({pid, Pid("a", 1, 2), Pid("a", 1, 3)}) == 2


@pytest.mark.parametrize(
    "name",
    ["a", "0", "_x", "gandalf", "pi-4_b", "Oven.heat", "a.b.c", "x" * limits.NAME_CHARS_MAX],
)
def test_names(name: str) -> None:
    assert check_plain_name(name) == name
    assert check_name(name) == name
    for host in ("localhost", "192.168.1.7", "pi.local", "h" * limits.HOST_CHARS_MAX):
        assert check_name(f"{name}@{host}") == f"{name}@{host}"
        with pytest.raises(ValueError):
            check_plain_name(f"{name}@{host}")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        ".a",
        "a.",
        "a..b",
        "a.-b",
        "a/b",
        "a b",
        "a\n",
        "a\x00",
        "a:b",
        "é",
        "ｇandalf",
        "x" * (limits.NAME_CHARS_MAX + 1),
        "a@",
        "@host",
        "a@b@c",
        "a@-b",
        "a@b.",
        "a@192.168.1.7:4370",
        "a@" + "h" * (limits.HOST_CHARS_MAX + 1),
    ],
)
def test_what_is_no_name(name: str) -> None:
    with (
        pytest.raises(ValueError, match="such as") if len(name) < 99 else pytest.raises(ValueError)
    ):
        check_name(name)


def test_pids_in_an_order_that_no_hash_decides() -> None:
    pids = [Pid("a", 1, 2), Pid("a", 1, 10), Pid("a", 2, 1), Pid("b", 1, 1)]
    assert in_order(set(pids)) == pids
    assert in_order(pids[::-1]) == pids
    assert list(in_order({pids[0]})) == pids[:1]
    assert list(in_order(())) == []


def test_a_proxy_pid_is_shown_but_not_told() -> None:
    proxy = ProxyPid("alice", bytes.fromhex("3f2a") + b"s" * 14)
    assert str(proxy) == repr(proxy) == "<proxy alice 3f2a..>"
    assert proxy == ProxyPid("alice", proxy.secret)
    assert len({proxy, ProxyPid("bob", proxy.secret)}) == 2


@pytest.mark.parametrize(
    ("node", "secret"),
    [("a b", b"s" * 16), (7, b"s" * 16), ("a", b"s" * 15), ("a", b"s" * 17), ("a", "s" * 16)],
)
def test_what_is_no_proxy_pid(node: str, secret: bytes) -> None:
    with pytest.raises(ValueError):
        ProxyPid(node, secret)
