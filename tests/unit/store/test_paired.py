"""Which cookie counts after a pairing, and after the operator wrote another one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from drupelet.errors import ConfigError
from drupelet.store.cookie import cookie_from_text, make_cookie
from drupelet.store.paired import cookies_in_force, keep_paired_cookie, text_of

OLD, NEW, LATER = (make_cookie() for _ in range(3))
OLD_COOKIE, NEW_COOKIE, LATER_COOKIE = (
    cookie_from_text(text, "prod") for text in (OLD, NEW, LATER)
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "paired-cookie"


def in_force(path: Path, *cookies: object) -> object:
    return cookies_in_force(path, cookies, environment="prod")  # type: ignore[arg-type]


def test_without_a_pairing_the_cookie_file_counts(path: Path) -> None:
    assert in_force(path, OLD_COOKIE, LATER_COOKIE) == (OLD_COOKIE, LATER_COOKIE)


def test_the_new_one_counts_and_the_former_is_accepted(path: Path) -> None:
    keep_paired_cookie(path, NEW, OLD, OLD_COOKIE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert in_force(path, OLD_COOKIE) == (NEW_COOKIE, OLD_COOKIE)


def test_a_second_pairing(path: Path) -> None:
    keep_paired_cookie(path, NEW, OLD, OLD_COOKIE)
    keep_paired_cookie(path, LATER, NEW, OLD_COOKIE)
    assert in_force(path, OLD_COOKIE) == (LATER_COOKIE, NEW_COOKIE)


def test_what_the_operator_writes_later_counts(path: Path) -> None:
    keep_paired_cookie(path, NEW, OLD, OLD_COOKIE)
    assert in_force(path, LATER_COOKIE) == (LATER_COOKIE,)
    assert in_force(path, NEW_COOKIE) == (NEW_COOKIE,)


def test_a_damaged_file_is_named(path: Path) -> None:
    path.write_text(f"{NEW}\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="paired-cookie.*damaged"):
        in_force(path, OLD_COOKIE)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="0644"):
        in_force(path, OLD_COOKIE)


def test_the_text_of_a_cookie(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "cookie"
    file.write_text(f"# comment\n{OLD}\n")
    file.chmod(0o600)
    keep_paired_cookie(path, NEW, "", OLD_COOKIE)
    both = (path, file, tmp_path / "missing")
    assert text_of(OLD_COOKIE.psk, both, environment="prod") == OLD
    assert text_of(NEW_COOKIE.psk, both, environment="prod") == NEW
    assert text_of(LATER_COOKIE.psk, both, environment="prod") == ""
