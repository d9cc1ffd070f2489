"""The node key: made once, kept, left behind on another board, never replaced in silence."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest

from drupelet.errors import ConfigError
from drupelet.store import identity as identity_module
from drupelet.store.identity import CLONES_MAX, board_serial, load_or_make_identity
from drupelet.wire.keys import key_from_text
from drupelet.wire.sodium import ed25519_public

BOARD, OTHER_BOARD = "10000000abcdef01", "10000000abcdef02"


def test_the_first_start_makes_a_key_and_the_next_ones_keep_it(tmp_path: Path) -> None:
    made = load_or_make_identity(tmp_path, board_serial=BOARD)
    assert made.made_now
    assert made.replaced_key is None
    assert made.public_key == ed25519_public(made.seed)
    assert key_from_text(made.key_text) == made.public_key
    assert (tmp_path / "node.key").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "node.key").read_bytes()
    for _ in range(2):
        loaded = load_or_make_identity(tmp_path, board_serial=BOARD)
        assert not loaded.made_now
        assert loaded.seed == made.seed
    assert (tmp_path / "node.key").read_bytes() == before
    assert os.listdir(tmp_path) == ["node.key"]


def test_two_nodes_have_two_keys(tmp_path: Path) -> None:
    first = load_or_make_identity(tmp_path / "a", board_serial=BOARD)
    second = load_or_make_identity(tmp_path / "b", board_serial=BOARD)
    assert first.seed != second.seed


def test_a_copied_card_gets_a_new_key_and_says_so(tmp_path: Path) -> None:
    original = load_or_make_identity(tmp_path, board_serial=BOARD)
    content = (tmp_path / "node.key").read_bytes()
    clone = load_or_make_identity(tmp_path, board_serial=OTHER_BOARD)
    assert clone.made_now
    assert clone.public_key != original.public_key
    assert clone.replaced_key == original.public_key
    aside = tmp_path / "node.key.cloned-1"
    assert aside.read_bytes() == content
    assert aside.stat().st_mode & 0o777 == 0o600
    again = load_or_make_identity(tmp_path, board_serial=OTHER_BOARD)
    assert (again.public_key, again.made_now) == (clone.public_key, False)
    assert again.replaced_key == original.public_key, "told until somebody has heard it"
    third = load_or_make_identity(tmp_path, board_serial="third")
    assert third.replaced_key == clone.public_key
    assert sorted(os.listdir(tmp_path)) == ["node.key", "node.key.cloned-1", "node.key.cloned-2"]


def test_copies_are_bounded(tmp_path: Path) -> None:
    load_or_make_identity(tmp_path, board_serial=BOARD)
    for number in range(1, CLONES_MAX):
        (tmp_path / f"node.key.cloned-{number}").touch()
    clone = load_or_make_identity(tmp_path, board_serial=OTHER_BOARD)
    assert clone.made_now
    with pytest.raises(ConfigError, match="99 former keys"):
        load_or_make_identity(tmp_path, board_serial="third")
    kept = load_or_make_identity(tmp_path, board_serial=OTHER_BOARD)
    assert kept.public_key == clone.public_key


def test_a_power_cut_while_replacing_leaves_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = load_or_make_identity(tmp_path, board_serial=BOARD)

    class PowerCut(Exception):
        pass

    def cut(*_: object, **__: object) -> None:
        raise PowerCut

    monkeypatch.setattr(identity_module, "replace_secret_file", cut)
    with pytest.raises(PowerCut):
        load_or_make_identity(tmp_path, board_serial=OTHER_BOARD)
    monkeypatch.undo()
    clone = load_or_make_identity(tmp_path, board_serial=OTHER_BOARD)
    assert clone.replaced_key == original.public_key


@pytest.mark.parametrize(("made_on", "started_on"), [("", BOARD), (BOARD, ""), ("", "")])
def test_no_serial_binds_to_nothing(tmp_path: Path, made_on: str, started_on: str) -> None:
    made = load_or_make_identity(tmp_path, board_serial=made_on)
    loaded = load_or_make_identity(tmp_path, board_serial=started_on)
    assert loaded.public_key == made.public_key
    assert loaded.replaced_key is None


def test_every_flipped_bit_is_found_and_nothing_is_replaced(tmp_path: Path) -> None:
    load_or_make_identity(tmp_path, board_serial=BOARD)
    path = tmp_path / "node.key"
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in (0, 3, 5, 7):  # 5 turns a letter's case
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(ConfigError, match=r"damaged|newer") as caught:
                load_or_make_identity(tmp_path, board_serial=BOARD)
            assert str(path) in str(caught.value)
            assert path.read_bytes() == damaged
    assert os.listdir(tmp_path) == ["node.key"]


def test_every_truncation_is_found(tmp_path: Path) -> None:
    load_or_make_identity(tmp_path, board_serial=BOARD)
    path = tmp_path / "node.key"
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ConfigError, match="damaged"):
            load_or_make_identity(tmp_path, board_serial=BOARD)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["version 2", "seed 00", "board none"], "newer Drupelet"),
        (["version 1", "seed 00", "board none"], "another length"),
        (["version 1", "board none"], "missing"),
        (["version 1", f"seed {'0' * 64}"], "missing"),
        (["version 1", f"seed {'g' * 64}", "board none"], "malformed"),
        (["version 1", f"seed {'0' * 64}", "board none", "replaced 00"], "another length"),
    ],
)
def test_a_good_check_does_not_excuse_bad_lines(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    text = "".join(f"{line}\n" for line in lines)
    path = tmp_path / "node.key"
    path.write_text(f"{text}check {identity_module._digest_line(text)}\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=message):
        load_or_make_identity(tmp_path, board_serial=BOARD)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_or_make_identity(tmp_path, board_serial=BOARD)
    (tmp_path / "node.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_or_make_identity(tmp_path, board_serial=BOARD)


def test_two_starts_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one writes between our look and our write."""
    winner = load_or_make_identity(tmp_path, board_serial=BOARD)
    real = identity_module.read_secret_file
    answers = iter([None])

    def look(path: Path, *, what: str) -> bytes | None:
        return next(answers, real(path, what=what))

    monkeypatch.setattr(identity_module, "read_secret_file", look)
    loser = load_or_make_identity(tmp_path, board_serial=BOARD)
    assert loser.seed == winner.seed
    assert not loser.made_now


def test_the_seed_stays_in(tmp_path: Path) -> None:
    made = load_or_make_identity(tmp_path, board_serial=BOARD)
    assert repr(made.seed) not in repr(made)
    assert made.seed.hex() not in repr(made)
    for dump in (copy.copy, copy.deepcopy):  # both ask what pickle asks
        with pytest.raises(TypeError, match="does not leave"):
            dump(made)


def test_the_serial_is_not_in_the_file(tmp_path: Path) -> None:
    load_or_make_identity(tmp_path, board_serial=BOARD)
    assert BOARD.encode() not in (tmp_path / "node.key").read_bytes()


@pytest.mark.parametrize(
    ("device_tree", "machine_id", "expected"),
    [
        (b"10000000abcdef01\0", b"id\n", "10000000abcdef01"),
        (b"0000000000000000\0", b"id\n", "id"),
        (None, b"0123456789abcdef0123456789abcdef\n", "0123456789abcdef0123456789abcdef"),
        (b"", b"", ""),
        (None, b"uninitialized\n", ""),
        (None, None, ""),
        (b"\xff\xfe\0", None, "\ufffd\ufffd"),
        (b"1" * 1_000, None, "1" * 256),
    ],
)
def test_board_serial(
    tmp_path: Path, device_tree: bytes | None, machine_id: bytes | None, expected: str
) -> None:
    for name, content in (("serial", device_tree), ("id", machine_id)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    found = board_serial(device_tree=tmp_path / "serial", machine_id=tmp_path / "id")
    assert found == expected
