"""Grant files: what a granter gives to a holder, in a form that mail and paper survive.

Decides the text of a file:

    # bob may call temp of the mission kitchen on alice, 10 times a minute, for 30 days.
    drupelet-grant:o2R...

What is before the line with the prefix is for people and counts nothing. That line is base64url of
a deterministic CBOR map: ``version`` 1, ``grant`` (wire/grants.py), ``name`` (of the issuer's
node), ``addresses`` ([host, port], where it was last), ``relay`` (the address of the node's, if it
has one; a list of them, if it has several) and ``seed`` when whoever has the file may call: it is
then a secret, like a key of a house.

Mail breaks long lines, quotes them with ``>`` and marks a break with ``=``: lines of base64url that
follow at once are taken as the rest. All of it is signed or proved, so a wrong guess is refused.

Rejected: binary files (nobody sees what they have); JSON (two ways to write everything).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.grants import Grant, decode_grant, describe
from drupelet.wire.ids import check_name
from drupelet.wire.limits import (
    GRANT_ADDRESSES_MAX,
    GRANT_FILE_CHARS_MAX,
    HOST_CHARS_MAX,
    RELAY_URL_CHARS_MAX,
    RELAY_URLS_MAX,
)

PREFIX: Final = "drupelet-grant:"
_VERSION: Final = 1
_QUOTED: Final = re.compile(r"^[>\s]+")
_REST: Final = re.compile(r"(?!--$)[A-Za-z0-9_-]+")  # of a broken line; "--" begins a signature
_DAMAGED: Final = (
    "the grant is cut off or was changed on its way; ask for it again, as a file attached to a mail"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFile:
    """A grant and where to use it. `seed`: of the holder's key, when it is in the file."""

    grant: Grant
    name: str
    addresses: tuple[tuple[str, int], ...] = ()
    seed: bytes | None = field(default=None, repr=False)
    relays: tuple[str, ...] = ()

    @property
    def relay(self) -> str:
        """The first of its relays, or nothing."""
        return self.relays[0] if self.relays else ""


def encode_grant_file(file: GrantFile) -> str:
    """The text of a file."""
    fields: dict[str, object] = {
        "addresses": [list(each) for each in file.addresses],
        "grant": file.grant.data,
        "name": file.name,
        "version": _VERSION,
    }
    if file.seed is not None:
        fields["seed"] = file.seed
    if file.relays:
        fields["relay"] = file.relay if len(file.relays) == 1 else list(file.relays)
    body = base64.urlsafe_b64encode(dumps(fields)).rstrip(b"=").decode()
    secret = "# Keep it secret: it is a key.\n" if file.seed is not None else ""
    sentence = describe(file.grant, {file.grant.issuer: file.name})
    return f"# {sentence}\n{secret}{PREFIX}{body}\n"


def decode_grant_file(text: str) -> GrantFile:
    """The reverse. Raises: `RemoteProtocolError` with what is wrong."""
    if len(text) > GRANT_FILE_CHARS_MAX:
        raise RemoteProtocolError(f"a grant's file has at most {GRANT_FILE_CHARS_MAX} characters")
    body = _body(text)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        fields = loads_canonical(data)
    except (binascii.Error, ValueError, RemoteProtocolError):
        raise RemoteProtocolError(_DAMAGED) from None
    match fields:
        case {
            "addresses": list(addresses),
            "grant": bytes(grant),
            "name": str(name),
            "version": int(version),
            **rest,
        } if not rest.keys() - {"relay", "seed"} and version is not True and version == _VERSION:
            try:
                signed = decode_grant(grant)
            except RemoteProtocolError as error:
                raise RemoteProtocolError(f"{_DAMAGED} ({error})") from None
            return _checked(addresses, signed, name, rest)
    raise RemoteProtocolError("not the file of a grant, or one of a later version")


def _body(text: str) -> str:
    """What follows the prefix, put together again where a mail program broke the line."""
    lines = [_QUOTED.sub("", line, count=1).rstrip() for line in text.splitlines()]
    starts = [place for place, line in enumerate(lines) if line.startswith(PREFIX)]
    if len(starts) != 1:
        raise RemoteProtocolError(
            f"not the file of one grant, which has one line that begins with {PREFIX}; "
            "if it should be one, ask for it again"
        )
    start = starts[0]
    parts = [lines[start].removeprefix(PREFIX).rstrip("=")]
    for line in lines[start + 1 :]:
        if not _REST.fullmatch(line.rstrip("=")):
            break
        parts.append(line.rstrip("="))
    return "".join(parts)


def _checked(
    addresses: list[object], grant: Grant, name: str, rest: dict[object, object]
) -> GrantFile:
    seed = rest.get("seed")
    try:
        check_name(name)
    except ValueError as error:
        raise RemoteProtocolError(f"grant: {error}") from None
    if seed is not None:
        if not isinstance(seed, bytes) or len(seed) != sodium.KEY_BYTES:
            raise RemoteProtocolError("grant: malformed key")
        if sodium.ed25519_public(seed) != grant.holder:
            raise RemoteProtocolError("grant: the key in the file is not the holder's")
    elif grant.bearer:
        raise RemoteProtocolError("grant: the holder's key is missing in the file")
    relays = _relays(rest["relay"]) if "relay" in rest else ()
    places: list[tuple[str, int]] = []
    for each in addresses:
        match each:
            case [str(host), int(port)] if (
                0 < len(host) <= HOST_CHARS_MAX and 0 < port < 65_536 and port is not True
            ):
                places.append((host, port))
            case _:
                raise RemoteProtocolError("grant: malformed address")
    if len(places) > GRANT_ADDRESSES_MAX:
        raise RemoteProtocolError(f"grant: more than {GRANT_ADDRESSES_MAX} addresses")
    return GrantFile(grant=grant, name=name, addresses=tuple(places), seed=seed, relays=relays)


def _relays(value: object) -> tuple[str, ...]:
    """One as text, two or more as a list: there is one way to write each."""
    relays = [value] if isinstance(value, str) else value
    least = 1 if isinstance(value, str) else 2
    if not isinstance(relays, list) or not least <= len(relays) <= RELAY_URLS_MAX:
        raise RemoteProtocolError("grant: malformed relay")
    for each in relays:
        if not isinstance(each, str) or not 0 < len(each) <= RELAY_URL_CHARS_MAX:
            raise RemoteProtocolError("grant: malformed relay")
    return tuple(relays)
