"""The node's identity on disk: ``node.key``, an Ed25519 seed bound to the board it was made on.

Decides when a key is made, kept, or left behind. Made at the first start, in a file of mode 0600.
A card that was copied finds another board under it: the key then belongs to the other machine, so
it is moved aside as ``node.key.cloned-<n>`` and a new one made; `Identity.replaced_key` says so at
this and every later start. A damaged file, or one that others can read, is never replaced in
silence: who a node is must not change because a bit did.

The file is text, one fact a line (``board none``: made where no serial could be read, bound to
nothing). The last line is a digest over the others, since cards flip bits and a flipped seed would
be a valid key of somebody else.

    # Drupelet node key. ...
    version 1
    seed <64 hex digits>
    board <64 hex digits, or none>
    replaced <64 hex digits, only after a copy>
    check <32 hex digits>

Times: 0.3 ms to load; on an SD card 10 to 100 ms to make (two fsyncs).

Ideas rejected: deriving the key from the board serial (it is printed on the board and public);
TPM or secure element (Pis have none); encrypting the file (the password would lie beside it).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from drupelet.errors import ConfigError
from drupelet.store.secret_files import (
    create_secret_file,
    read_secret_file,
    replace_secret_file,
)
from drupelet.wire.keys import key_to_text
from drupelet.wire.sodium import KEY_BYTES, ed25519_public

FILE_NAME: Final = "node.key"
CLONES_MAX: Final = 99  # a card copied more often than this has another problem

DEVICE_TREE_SERIAL: Final = Path("/proc/device-tree/serial-number")
MACHINE_ID: Final = Path("/etc/machine-id")

_WHAT: Final = "the node key"
_COMMENT: Final = "# Drupelet node key. Whoever has it is this node; never copy it to another one."
_CHECK_HEX: Final = 32
_SERIAL_BYTES_MAX: Final = 256  # a Pi's has 16 characters, a machine-id 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this node is. The seed stays out of `repr`, and the object cannot be pickled.

    `public_key`: Ed25519, 32 bytes. `replaced_key`: the public key that the card brought along
    from another board, or None. `made_now`: whether this start made the key.
    """

    public_key: bytes
    seed: bytes = field(repr=False)
    replaced_key: bytes | None = None
    made_now: bool = False

    @property
    def key_text(self) -> str:
        """The text form of the public key."""
        return key_to_text(self.public_key)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an identity does not leave its process")


def board_serial(*, device_tree: Path = DEVICE_TREE_SERIAL, machine_id: Path = MACHINE_ID) -> str:
    """What tells this board from others: its serial number, else the system's machine id.

    Empty when there is neither; a serial of zeros only (some boards' firmware) counts as none.
    """
    for path in (device_tree, machine_id):
        try:
            with path.open("rb") as file:
                raw = file.read(_SERIAL_BYTES_MAX)
        except OSError:
            continue
        text = raw.strip(b"\0 \t\r\n").decode("ascii", "replace")
        if text.strip("0") and text != "uninitialized":  # systemd's word before the first boot
            return text
    return ""


def load_or_make_identity(state_dir: Path, *, board_serial: str) -> Identity:
    """The identity of this node on this board.

    Raises: `ConfigError` for a file that is damaged, readable by others, or cannot be written.
    """
    path = state_dir / FILE_NAME
    board = _board_digest(board_serial)
    content = read_secret_file(path, what=_WHAT)
    if content is None:
        seed = os.urandom(KEY_BYTES)
        if create_secret_file(path, _encode(seed, board, None), what=_WHAT):
            return Identity(public_key=ed25519_public(seed), seed=seed, made_now=True)
        content = read_secret_file(path, what=_WHAT)  # another start was quicker
        if content is None:
            raise _damaged(path, "it comes and goes")
    seed, bound_to, replaced = _decode(content, path)
    if board is None or bound_to is None or bound_to == board:
        return Identity(public_key=ed25519_public(seed), seed=seed, replaced_key=replaced)
    return _replace_clone(path, content, former=ed25519_public(seed), board=board)


def _replace_clone(path: Path, content: bytes, *, former: bytes, board: bytes) -> Identity:
    """Keep the old file aside, then put a new key in its place; there is one at every moment."""
    for number in range(1, CLONES_MAX + 1):
        aside = path.with_name(f"{path.name}.cloned-{number}")
        if create_secret_file(aside, content, what=_WHAT):
            break
    else:
        raise ConfigError(
            f"this card was copied from another board, and {CLONES_MAX} former keys lie here",
            mend=f"remove {path.name}.cloned-* from {path.parent}",
            file=str(path),
        )
    seed = os.urandom(KEY_BYTES)
    replace_secret_file(path, _encode(seed, board, former), what=_WHAT)
    return Identity(public_key=ed25519_public(seed), seed=seed, replaced_key=former, made_now=True)


def _board_digest(serial: str) -> bytes | None:
    if not serial:
        return None
    return hashlib.blake2s(serial.encode(), person=b"drupboar").digest()


def _digest_line(text: str) -> str:
    digest = hashlib.blake2s(text.encode("utf-8", "replace"), person=b"drupfile")
    return digest.hexdigest()[:_CHECK_HEX]


def _encode(seed: bytes, board: bytes | None, replaced: bytes | None) -> bytes:
    lines = [
        _COMMENT,
        "version 1",
        f"seed {seed.hex()}",
        f"board {board.hex() if board else 'none'}",
    ]
    if replaced is not None:
        lines.append(f"replaced {replaced.hex()}")
    text = "\n".join(lines) + "\n"
    return f"{text}check {_digest_line(text)}\n".encode()


def _decode(content: bytes, path: Path) -> tuple[bytes, bytes | None, bytes | None]:
    """(seed, board digest, replaced key)."""
    if not content.strip():
        raise _damaged(path, "it is empty")
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise _damaged(path, "it is not text") from None
    body, found, check = text.rpartition("check ")
    if not found or check != f"{_digest_line(body)}\n":
        raise _damaged(path, "its check line does not fit")
    facts = dict(line.partition(" ")[::2] for line in body.splitlines() if line[:1] != "#")
    if facts.get("version") != "1":
        raise ConfigError(
            f"{_WHAT} was written by a newer Drupelet",
            mend="install that version again, or a later one",
            file=str(path),
        )
    try:
        seed = bytes.fromhex(facts["seed"])
        board = None if facts["board"] == "none" else bytes.fromhex(facts["board"])
        replaced = bytes.fromhex(facts["replaced"]) if "replaced" in facts else None
    except (KeyError, ValueError):
        raise _damaged(path, "a line is missing or malformed") from None
    if len(seed) != KEY_BYTES or len(replaced or seed) != KEY_BYTES:
        raise _damaged(path, "a key in it has another length")
    return seed, board, replaced


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{_WHAT} is damaged: {why}",
        mend=(
            f"put a backup of it back, or move {path} away to become a new node "
            "(other nodes will see a new key)"
        ),
        file=str(path),
    )
