"""Cookies: which texts, which files, which keys, and that the secret is never shown."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from drupelet.errors import ConfigError
from drupelet.store import cookie as cookie_module
from drupelet.store.cookie import (
    CHOSEN_CHARS_MAX,
    Cookie,
    cookie_from_text,
    load_cookie,
    load_or_make_cookie,
    make_cookie,
    psk_from_text,
)

RANDOM = "iqp5dw3bp2hdnoyzu3iyxmvnajlzmn3f"
OTHER_RANDOM = "b2k7q4w6znc5t3hxj4m2vrpy7d5gsu6e"
CHOSEN = "purple llamas juggle anvils"


def _write(tmp_path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path = tmp_path / "cookie"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


# -- texts


def test_known_keys() -> None:
    """Written down once: a cluster's members of different versions must reach one key."""
    assert (
        psk_from_text(RANDOM, "prod").hex()
        == "8ee8f6b827035bf1955a43a87628f3160902bf70b581f8bf1c5251eb70e12d7a"
    )
    assert (
        psk_from_text(CHOSEN, "prod").hex()
        == "4f4b8c8a0bb5aeeb1fc1748a2493413381873b553ef3f7caf7d47933297057a0"
    )
    assert (
        psk_from_text(CHOSEN, "dev").hex()
        == "edaba7e13c5070639741b7c055533749f24cd3630f68af2c51112021fcacb19d"
    )


def test_random_cookies_are_random_and_recognised() -> None:
    texts = {make_cookie() for _ in range(200)}
    assert len(texts) == 200
    for text in texts:
        assert len(base64.b32decode(text.upper())) == 20
        assert cookie_from_text(text, "prod").kind == "random"


def test_how_people_write_a_random_one() -> None:
    groups = " ".join(RANDOM[start : start + 4] for start in range(0, 32, 4))
    for text in (RANDOM.upper(), groups, groups.replace(" ", "-"), f" {RANDOM} "):
        assert psk_from_text(text, "prod") == psk_from_text(RANDOM, "prod")


@pytest.mark.parametrize(
    "text",
    [
        "correcthorsebatterystaplepurplex",  # 32 letters, no digit
        "abcdefghijklmnopqrstuvwxyz234567",  # the alphabet itself
        "a2b3c4d5" * 4,
        "kq7w3zr5m2xhtc6n" * 2,
        "aaaaaaaaaaaaaaaa2222222222222222",
    ],
)
def test_what_a_person_wrote_is_stretched_although_it_has_the_random_form(text: str) -> None:
    assert len(text) == 32
    assert cookie_from_text(text, "dev").kind == "chosen"


def test_chosen_cookies() -> None:
    assert cookie_from_text(CHOSEN, "prod").kind == "chosen"
    assert psk_from_text(f"  {CHOSEN}\t", "dev") == psk_from_text(CHOSEN, "dev")
    assert psk_from_text(CHOSEN.upper(), "dev") != psk_from_text(CHOSEN, "dev")
    assert psk_from_text("Ro\u0308sslein springt", "dev") == psk_from_text(
        "R\u00f6sslein springt", "dev"
    )


WEAK = [
    "a",
    "kitchen7",
    "elevenchars",
    "aaaaaaaaaaaaaaaaaaaa",
    "abababababab",
    "zebra!zebra!zebra!",
    "abcdefghijkl",
    "lkjihgfedcba",
    "123456789012",
    "qwertyuiopasdf",
    "password1234",
    "P4ssw0rd-P4ssw0rd1",
    "correct horse battery staple",
    "drupeletdrupelet2024",
    "raspberry-raspberry-pi",
    "8392-1847-2938-1123",
    "abcdefghijklmnopqrstuvwxyz234567",
]


@pytest.mark.parametrize("text", WEAK)
def test_weak_ones_are_refused_in_prod_and_allowed_in_dev(text: str) -> None:
    for environment in ("prod", "production", ""):  # whatever is not dev is prod
        with pytest.raises(ConfigError, match="weak") as caught:
            psk_from_text(text, environment)
        assert caught.value.mend
        assert text not in str(caught.value) or len(text) < 4
    assert len(psk_from_text(text, "dev")) == 32


@pytest.mark.parametrize(
    "text",
    [
        CHOSEN,
        "K9$x!m2#Qz7&",
        "R\u00f6sslein springt querfeldein",
        "9f86d081884c7d659a2feaa0c55ad015",  # 32 hex digits
        "74982315092847162053",  # 20 digits
        "XKTWZQVJHBRMLNPSDFGC",  # as Erlang makes them
    ],
)
def test_strong_ones_are_allowed_in_prod(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cookie_module._MEMORY_BYTES, "prod", 8 * 1024 * 1024)  # quicker
    assert cookie_from_text(text, "prod").kind == "chosen"


@pytest.mark.parametrize("environment", ["prod", "dev"])
@pytest.mark.parametrize(
    "text", ["", "   ", "x" * (CHOSEN_CHARS_MAX + 1), "tab\tinside it", "a\0b"]
)
def test_flawed_ones_are_refused_everywhere(text: str, environment: str) -> None:
    with pytest.raises(ConfigError):
        psk_from_text(text, environment)


def test_the_longest_chosen_one() -> None:
    assert len(psk_from_text("x" * CHOSEN_CHARS_MAX, "dev")) == 32


def test_prod_pays_the_full_price() -> None:
    """RFC 9106's second choice: 64 MiB, 3 passes. An attacker pays it for each guess."""
    assert cookie_module._MEMORY_BYTES["prod"] == 64 * 1024 * 1024
    assert cookie_module._PASSES["prod"] == 3


def test_the_key_stays_out_of_repr() -> None:
    cookie = Cookie(b"k" * 32, "random")
    assert "kkk" not in repr(cookie)


# -- files


@pytest.mark.parametrize(
    "content",
    [
        f"{RANDOM}\n",
        RANDOM,
        f"{RANDOM}\r\n",
        f"\ufeff{RANDOM}\r\n",
        f"# a comment\n\n  {RANDOM}  \n\n# another\n",
        f"{RANDOM}\r# old Mac\r",
        f"{RANDOM}\n{RANDOM.upper()}\n",  # the same one twice
    ],
)
def test_one_cookie_in_many_hands(tmp_path: Path, content: str) -> None:
    cookies = load_cookie(_write(tmp_path, content), environment="prod")
    assert cookies == (cookie_from_text(RANDOM, "prod"),)


def test_two_while_rotating_the_new_one_first(tmp_path: Path) -> None:
    path = _write(
        tmp_path, f"# new\n{RANDOM}\n# old, until bilbo has the new one\n{OTHER_RANDOM}\n"
    )
    cookies = load_cookie(path, environment="prod")
    assert [each.psk for each in cookies] == [
        psk_from_text(RANDOM, "prod"),
        psk_from_text(OTHER_RANDOM, "prod"),
    ]


def test_three_are_one_too_many(tmp_path: Path) -> None:
    path = _write(tmp_path, f"{RANDOM}\n{OTHER_RANDOM}\n#\n{make_cookie()}\n")
    with pytest.raises(ConfigError, match="more than 2 cookies") as caught:
        load_cookie(path, environment="prod")
    assert caught.value.line == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; write one line"),
        ("\n \r\n# only a comment\n", "is empty"),
        (RANDOM.encode("utf-16"), "not UTF-8"),
        (b"\xff\xfe\xfd", "not UTF-8"),
        (b"x" * 5_000, "longer than 4096"),
        (f"{RANDOM}\nkitchen\n", ":2: the cookie has 7 characters, which is weak"),
    ],
)
def test_bad_files(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_or_make_cookie(path, environment="prod")
    assert str(path) in str(caught.value)
    assert "kitchen" not in str(caught.value)


@pytest.mark.parametrize("load", [load_cookie, load_or_make_cookie])
def test_a_readable_file_is_refused(tmp_path: Path, load: object) -> None:
    path = _write(tmp_path, RANDOM, mode=0o644)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        load(path, environment="dev")  # type: ignore[operator]


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "cookie"
    with pytest.raises(ConfigError, match="no cookie"):
        load_cookie(path, environment="prod")
    made = load_or_make_cookie(path, environment="prod")
    assert [each.kind for each in made] == ["random"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_make_cookie(path, environment="prod") == made
    assert load_cookie(path, environment="dev") == made


def test_two_starts_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one writes between our look and our write."""
    path = tmp_path / "cookie"
    winner = load_or_make_cookie(path, environment="prod")
    real = cookie_module.read_secret_file
    answers = iter([None])

    def look(path: Path, *, what: str) -> bytes | None:
        return next(answers, real(path, what=what))

    monkeypatch.setattr(cookie_module, "read_secret_file", look)
    assert load_or_make_cookie(path, environment="prod") == winner
