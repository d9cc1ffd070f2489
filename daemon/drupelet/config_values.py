"""What one value of a configuration may be: a check for each kind, with the words for a refusal.

Decides types, ranges and forms; knows neither sections nor files. A check takes the value as TOML
gave it and the directory that relative paths start from, and returns the value as the program
uses it, or raises `BadValue` with what is wrong and the mend.

References: RFC 1123 section 2.1 (host names), unix(7), netdevice(7).
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from drupelet.toml_text import printable
from drupelet.wire import limits
from drupelet.wire.grant_terms import rate_from_text
from drupelet.wire.grants import Terms, terms_problem

# "node/mission/function" must fit a call's target
NODE_NAME_CHARS_MAX: Final = limits.TARGET_BYTES_MAX - 2 * (1 + limits.NAME_CHARS_MAX)
SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path of unix(7) is 108 bytes with its closing zero
INTERFACE_CHARS_MAX: Final = 15  # IFNAMSIZ of netdevice(7) without its closing zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a node is found: `host` an address or host name without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer(Place):
    """A static peer: `name` its label."""

    name: str

    def __str__(self) -> str:
        return f"{self.name}@{Place.__str__(self)}"


class BadValue(Exception):
    """A value that a key does not take."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend


Check: TypeAlias = Callable[[object, Path], object]
_TYPE_NAMES: Final[dict[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a point",
    str: "text",
    list: "a list",
    dict: "a table",
}
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_RELAY_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?\Z"
)
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+")
_INVITE: Final = re.compile(r"[a-z2-7]{25}[aeimquy4]\Z")  # base32 of 16 bytes
_SIMPLE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")


def show(value: object) -> str:
    """A value as a message shows it: one line, capped, printable."""
    try:
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
    except ValueError:  # hexadecimal numbers may have more digits than str() writes
        shown = "that number"
    return printable(shown if len(shown) <= 80 else shown[:77] + "...")


def _expect(value: object, wanted: type, example: str) -> None:
    if type(value) is not wanted:  # `is`: a bool is an int to isinstance
        got = _TYPE_NAMES.get(type(value), "a date or time")
        raise BadValue(f"must be {_TYPE_NAMES[wanted]}, not {got}", f"write it as {example}")


def boolean(value: object, base: Path) -> bool:
    _expect(value, bool, "true or false, without quotes")
    return bool(value)


def port(value: object, base: Path) -> int:
    _expect(value, int, "a number such as 4370, without quotes")
    assert isinstance(value, int)
    if not 0 <= value <= 65_535:
        raise BadValue(f"{show(value)} is no port", "use 0 to 65535 (0: any free port)")
    return value


def _text(value: object, example: str) -> str:
    _expect(value, str, example)
    assert isinstance(value, str)
    return value


def one_of(*choices: str) -> Check:
    def check(value: object, base: Path) -> str:
        word = _text(value, f'"{choices[0]}"')
        if word not in choices:
            known = ", ".join(f'"{choice}"' for choice in choices)
            near = difflib.get_close_matches(word[:64].lower(), choices, n=1, cutoff=0.6)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise BadValue(f"{show(word)} is not known", f"use one of {known}{hint}")
        return word

    return check


def path_of(value: object, base: Path) -> Path:
    word = _text(value, '"/a/path"')
    if not word or not word.isprintable():
        raise BadValue(f"{show(word)} is no path", 'write a path such as "/var/lib/drupelet"')
    if word.startswith("~"):
        raise BadValue(f"{show(word)}: ~ is not expanded here", "write the path in full")
    return base / word


def socket_path(value: object, base: Path) -> Path:
    path = path_of(value, base)
    check_socket_path(path)
    return path


def optional_socket_path(value: object, base: Path) -> Path | None:
    return None if value == "" else socket_path(value, base)


def optional_path(value: object, base: Path) -> Path | None:
    return None if value == "" else path_of(value, base)


def number(least: int, most: int) -> Check:
    def check(value: object, base: Path) -> int:
        _expect(value, int, f"a number such as {most}, without quotes")
        assert isinstance(value, int)
        if not least <= value <= most:
            raise BadValue(f"{show(value)} is out of range", f"use {least} to {most}")
        return value

    return check


def rate(value: object, base: Path) -> str:
    """How often strangers may call, as `drupelet grant --rate` has it."""
    word = _text(value, '"1000/s"')
    try:
        problem = terms_problem(Terms(rate=rate_from_text(word)))
    except ValueError as error:
        raise BadValue(str(error), 'write it as "1000/s"') from None
    if problem:
        raise BadValue(f"{show(word)}: {problem}", 'write it as "1000/s"')
    return word.strip()


def relay_url(value: object, base: Path) -> str:
    """The address of a relay, or nothing."""
    word = _text(value, '"https://relay.example.org"').rstrip("/")
    if word:
        match = _RELAY_URL.match(word)
        if match is None or int(match["port"] or 1) not in range(1, 65_536):
            raise BadValue(f"{show(word)} is no relay's address", "write https://HOST[:PORT]")
        _check_host(match["host"].strip("[]"), '"https://relay.example.org"')
        if match["scheme"] == "http" and match["host"] not in ("127.0.0.1", "localhost", "[::1]"):
            raise BadValue(f"{show(word)} has no TLS", "use https; http is for this machine only")
    return word


def relay_urls(value: object, base: Path) -> tuple[str, ...]:
    """One address of a relay, or a list; nothing: no relay."""
    if isinstance(value, str):
        return tuple(each for each in (relay_url(value, base),) if each)
    example = '"https://relay.example.org", or a list of such'
    urls = list_of(relay_url, limits.RELAY_URLS_MAX, example)(value, base)
    assert isinstance(urls, tuple)
    if "" in urls:
        raise BadValue("has an empty entry", "remove it")
    return urls


def email(value: object, base: Path) -> str:
    """An address to be known by, or nothing. Whether it exists, only mail can tell."""
    word = _text(value, '"alice@example.org"')
    if word and not (
        _EMAIL.fullmatch(word) and word.isprintable() and len(word) <= limits.RELAY_EMAIL_CHARS_MAX
    ):
        raise BadValue(f"{show(word)} is no email address", 'write "alice@example.org"')
    return word


def invite_code(value: object, base: Path) -> str:
    """What `drupelet-relay invite` prints, or nothing."""
    word = "".join(_text(value, '"the code that the relay prints"').split()).lower()
    if word and not _INVITE.match(word):
        raise BadValue("is no invite's code", "it has 26 letters and digits")
    return word


def check_socket_path(path: Path) -> None:
    if (size := len(os.fsencode(path))) > SOCKET_PATH_BYTES_MAX:
        raise BadValue(
            f"the socket's path {show(str(path))} has {size} bytes, Unix allows"
            f" {SOCKET_PATH_BYTES_MAX}",
            "choose a shorter one with [node] socket",
        )


def list_of(check: Check, count_max: int, example: str, *, count_min: int = 0) -> Check:
    def check_list(value: object, base: Path) -> tuple[object, ...]:
        _expect(value, list, example)
        assert isinstance(value, list)
        if not count_min <= len(value) <= count_max:
            raise BadValue(f"has {len(value)} entries", f"give {count_min} to {count_max}")
        items = tuple(check(item, base) for item in value)
        for place, item in enumerate(items):
            if item in items[:place]:
                raise BadValue(f"{show(value[place])} stands twice", "remove one of them")
        return items

    return check_list


def address(value: object, base: Path) -> str:
    word = _text(value, '"0.0.0.0"')
    try:
        address = ipaddress.ip_address(word)
    except ValueError:
        raise BadValue(
            f"{show(word)} is no IP address",
            'use one such as "0.0.0.0", "::" or "192.168.1.7" (no host names, no port)',
        ) from None
    if address.is_multicast:
        raise BadValue(f"{show(word)} is a multicast address", "use an address of this machine")
    return word


def interface(value: object, base: Path) -> str:
    word = _text(value, '"eth0"')
    try:
        ipaddress.ip_address(word)
    except ValueError:
        if not re.fullmatch(rf"[^\s/:]{{1,{INTERFACE_CHARS_MAX}}}", word) or not word.isprintable():
            raise BadValue(
                f"{show(word)} is no network interface", 'use a name such as "eth0" or an address'
            ) from None
    return word


def node_name(value: object, base: Path) -> str:
    word = _text(value, '"gandalf"')
    label, at, host = word.partition("@")
    _check_label(label)
    if at:
        if ":" in host:
            raise BadValue(f"{show(host)} is no host of a name", "use a host name or IPv4 address")
        _check_host(host, '"gandalf", "gandalf@shire" or "gandalf@shire.example.org"')
    if len(word) > NODE_NAME_CHARS_MAX:
        raise BadValue(
            f"has {len(word)} characters", f"use at most {NODE_NAME_CHARS_MAX} for name@host"
        )
    return word


def _check_label(label: str) -> None:
    if not _SIMPLE_NAME.match(label):
        raise BadValue(
            f"{show(label)} is no node name",
            "use letters, digits, - and _, beginning with a letter or digit",
        )
    if len(label) > limits.NAME_CHARS_MAX:
        raise BadValue(
            f"the node name has {len(label)} characters",
            f"use at most {limits.NAME_CHARS_MAX} before the @",
        )


def _check_host(host: str, example: str) -> None:
    if not is_address(host) and (
        len(host) > limits.HOST_CHARS_MAX
        or not all(_LABEL.match(label) for label in host.split("."))
        or host.rsplit(".", 1)[-1].isdigit()  # 192.168.1.700 is a typing error, not a host
    ):
        raise BadValue(f"{show(host)} is no host name or address", f"write it as {example}")


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def peer(value: object, base: Path) -> Peer:
    example = '"bilbo@192.168.1.7:4370", "bilbo@shire.local:4370" or "bilbo@[fe80::1%eth0]:4370"'
    word = _text(value, example)
    label, at, place = word.partition("@")
    host, colon, port = place.rpartition(":")
    if not at or not colon or not host:
        raise BadValue(f"{show(word)} is not name@host:port", f"write it as {example}")
    _check_label(label)
    return Peer(name=label, host=_host(word, host, port, example), port=int(port))


def place(value: object, base: Path) -> Place:
    """Where others find this node: what a router hands on to it."""
    example = '"pi.example.org:4370", "203.0.113.7:4370" or "[2001:db8::7]:4370"'
    word = _text(value, example)
    host, colon, port = word.rpartition(":")
    if not colon or not host or "@" in word:
        raise BadValue(f"{show(word)} is not host:port", f"write it as {example}")
    return Place(host=_host(word, host, port, example), port=int(port))


def _host(word: str, host: str, port: str, example: str) -> str:
    """The host without brackets. Raises: `BadValue` for what is none, or no port."""
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
        raise BadValue(f"{show(word)}: {show(port)} is no port", "use 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host or not is_address(host):
            raise BadValue(f"{show(host)} is no IPv6 address", f"write it as {example}")
    elif ":" in host:
        raise BadValue(f"{show(word)}: an IPv6 address needs brackets", f"write it as {example}")
    else:
        _check_host(host, example)
    return host
