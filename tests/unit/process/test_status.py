"""What is shown of a state, and what never is."""

from __future__ import annotations

import dataclasses

import hypothesis
import hypothesis.strategies as st
import pytest

from drupelet.process.status import (
    DEPTH_MAX,
    FIELDS_MAX,
    HIDDEN,
    TEXT_CHARS_MAX,
    looks_secret,
    shown_fields,
    shown_state,
)
from drupelet.wire.codec import dumps
from drupelet.wire.ids import Pid


@pytest.mark.parametrize(
    "name",
    ["password", "PASSWD", "db_password", "passphrase", "passcode", "pass", "user_pass", "secret",
     "client_secret", "token", "accessToken", "api_key", "apiKey", "key", "private_key", "keys",
     "cookie", "credentials", "psk", "pin", "pin_code", "_password"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name", ["count", "keyboard", "monkeys_seen", "passed", "passengers", "spinning", "pins_used"]
)
def test_other_names(name: str) -> None:
    assert not looks_secret(name)


@dataclasses.dataclass
class Account:
    user: str
    password: str


def test_secrets_are_hidden_at_any_depth() -> None:
    state = {
        "accounts": [Account("joe", "sesame"), {"token": "sesame", "age": 3}],
        "door": ("open", {"inner": {"pin": "sesame"}}),
        "password": ["sesame"],
    }
    shown = shown_fields(state)
    assert shown == {
        "accounts": [{"user": "joe", "password": HIDDEN}, {"token": HIDDEN, "age": 3}],
        "door": ["open", {"inner": {"pin": HIDDEN}}],
        "password": HIDDEN,
    }


def test_only_data_is_shown_and_it_is_short() -> None:
    class Opaque:
        def __repr__(self) -> str:
            return "sesame"

    pid = Pid("a", 1, 2)
    shown = shown_fields({"a": Opaque(), "b": b"sesame", "c": 1 << 100, "d": pid, "e": {1}})
    assert shown["a"].startswith("a ")
    assert "sesame" not in str(shown)
    assert (shown["b"], shown["c"]) == ("6 bytes", "an integer of 101 bits")
    assert (shown["d"], shown["e"]) == (pid, [1])
    at = {"t": "x" * TEXT_CHARS_MAX, "n": [0] * FIELDS_MAX}
    assert shown_fields(at) == at
    above = shown_fields({"t": "x" * (TEXT_CHARS_MAX + 1), "n": [0] * (FIELDS_MAX + 1)})
    assert above == {"t": "x" * TEXT_CHARS_MAX + "...", "n": [0] * FIELDS_MAX + ["1 more"]}
    assert shown_fields({str(n): n for n in range(FIELDS_MAX + 2)})["..."] == "2 more"


def test_depth_has_a_maximum() -> None:
    value: object = "deepest"
    for _ in range(DEPTH_MAX):
        value = [value]
    assert "deepest" in str(shown_fields({"a": value}))
    assert "deepest" not in str(shown_fields({"a": [value]}))


def test_a_state_may_format_itself() -> None:
    class Formatting:
        def format_status(self) -> object:
            return {"colour": "green", "password": "sesame"}

    class Raising:
        def format_status(self) -> object:
            raise ValueError("sesame")

    assert shown_state(Formatting()) == {"colour": "green", "password": HIDDEN}
    assert shown_state(Raising()) == "(format_status raised ValueError)"
    assert shown_state(None) is None
    assert shown_state({"key": 1}) == {"key": HIDDEN}
    assert str(shown_state(object())).startswith("a ")


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@hypothesis.given(_anything)
def test_what_is_shown_is_always_data(value: object) -> None:
    hypothesis.assume("\\ud" not in ascii(value))
    dumps(shown_state({"a": value}))
