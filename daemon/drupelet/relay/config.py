"""The relay's configuration: TOML text to a frozen dataclass, or what is wrong with it.

    [relay]
    names = ["relay.example.org"]        # hosts that nodes call it by; a login is for one of them
    listen = ["0.0.0.0:443"]             # host:port, IPv6 in brackets
    state_dir = "/var/lib/drupelet-relay"
    tls_certificate = "/etc/drupelet-relay/fullchain.pem"
    tls_key = "/etc/drupelet-relay/key.pem"
    behind_proxy = false                 # a proxy does TLS, and its X-Forwarded-For is believed
    connections_per_address = 256        # at once; behind a proxy there is no such limit
    sends_per_second = 50                # of one account; four times that at once
    # relays that this one keeps in step with; each names the other (`drupelet-relay key`)
    peers = [{ url = "https://relay2.example.org", key = "...", ca_file = "relay2.pem" }]

Decides which keys there are, and that a relay speaks TLS unless it listens on this machine only.
Paths are relative to the file's directory. Errors name file, line and key.

Rejected: a section in drupelet.toml (a relay is another machine's program); TLS left out silently.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from drupelet.config_values import BadValue, Check, boolean, list_of, path_of, relay_url, show
from drupelet.errors import ConfigError
from drupelet.toml_text import locate, parse_toml, raise_all, read_text, suggest
from drupelet.wire.keys import key_from_text
from drupelet.wire.limits import (
    HOST_CHARS_MAX,
    RELAY_CONNECTIONS_MAX,
    RELAY_CONNECTIONS_PER_ADDRESS_MAX,
    RELAY_PEERS_MAX,
    RELAY_SENDS_PER_SECOND,
    RELAY_SENDS_PER_SECOND_MAX,
)

STATE_DIR: Final = Path("/var/lib/drupelet-relay")
_LISTEN: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):([0-9]{1,5})\Z")
_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.:-]*[A-Za-z0-9_])?\Z")
_PEER_EXAMPLE: Final = 'write { url = "https://relay2.example.org", key = "..." }'
_LISTEN_MOST: Final = 16
_NAMES_MOST: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """Another relay. `accounts`: whether its word on accounts counts here."""

    url: str
    key: bytes
    ca_file: Path | None = None
    accounts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayConfig:
    """A relay."""

    names: tuple[str, ...]
    listen: tuple[str, ...] = ("127.0.0.1:8473",)
    state_dir: Path = STATE_DIR
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    connections_per_address: int = RELAY_CONNECTIONS_PER_ADDRESS_MAX
    sends_per_second: int = RELAY_SENDS_PER_SECOND
    peers: tuple[PeerConfig, ...] = ()


def _name(value: object, base: Path) -> str:
    if not isinstance(value, str) or not _NAME.match(value) or len(value) > HOST_CHARS_MAX:
        raise BadValue(
            f"{show(value)} is no host name", 'write it as nodes do: "relay.example.org"'
        )
    return value


def _listen(value: object, base: Path) -> str:
    match = _LISTEN.match(value) if isinstance(value, str) else None
    if match is None or int(match[3]) > 65_535:
        raise BadValue(f"{show(value)} is no address and port", 'write "0.0.0.0:443" or "[::]:443"')
    try:
        ipaddress.ip_address(match[1] or match[2])
    except ValueError:
        raise BadValue(f"{show(value)} has no IP address", 'write "127.0.0.1:8473"') from None
    return match[0]


def _number(most: int, of: str) -> Check:
    def check(value: object, base: Path) -> int:
        if type(value) is not int or not 0 < value <= most:
            raise BadValue(f"{show(value)} is no number of {of}", f"use 1 to {most}")
        return value

    return check


def _url(value: object, base: Path) -> str:
    url = relay_url(value, base)
    if not url:
        raise BadValue("has no address", 'write url = "https://relay2.example.org"')
    return url


def _key(value: object, base: Path) -> bytes:
    try:
        return key_from_text(value if isinstance(value, str) else "")
    except ValueError as error:
        raise BadValue(
            f"{show(value)}: {error}", "write what `drupelet-relay key` prints there"
        ) from None


_PEER_CHECKS: Final[dict[str, Check]] = {
    "url": _url,
    "key": _key,
    "ca_file": path_of,
    "accounts": boolean,
}


def _peer(value: object, base: Path) -> PeerConfig:
    if not isinstance(value, dict):
        raise BadValue(f"{show(value)} is no table", _PEER_EXAMPLE)
    for name in value.keys() - _PEER_CHECKS.keys():
        raise BadValue(f"has an unknown {show(name)}", suggest(name, _PEER_CHECKS))
    for name in ("url", "key"):
        if name not in value:
            raise BadValue(f"has an entry without {name}", _PEER_EXAMPLE)
    found: dict[str, Any] = {name: _PEER_CHECKS[name](one, base) for name, one in value.items()}
    return PeerConfig(**found)


_CHECKS: Final[dict[str, Check]] = {
    "names": list_of(_name, _NAMES_MOST, '["relay.example.org"]', count_min=1),
    "listen": list_of(_listen, _LISTEN_MOST, '["0.0.0.0:443"]', count_min=1),
    "state_dir": path_of,
    "tls_certificate": path_of,
    "tls_key": path_of,
    "behind_proxy": boolean,
    "connections_per_address": _number(RELAY_CONNECTIONS_MAX, "connections"),
    "peers": list_of(_peer, RELAY_PEERS_MAX, f"[{_PEER_EXAMPLE}]"),
    "sends_per_second": _number(RELAY_SENDS_PER_SECOND_MAX, "messages"),
}


def load(path: Path) -> RelayConfig:
    """The configuration in a file. Raises: `ConfigError`."""
    return parse(read_text(path), str(path))


def parse(text: str, file: str) -> RelayConfig:
    """As `load`, of a text. Raises: `ConfigError` (`ConfigErrors` for several problems)."""
    problems: list[ConfigError] = []

    def wrong(what: str, mend: str, section: str, key: str = "") -> None:
        line = locate(text, section, key)
        name = f"{section}.{key}" if key else section
        problems.append(ConfigError(what, mend=mend, file=file, line=line, key=name))

    tables = parse_toml(text, file)
    for section in tables.keys() - {"relay"}:
        wrong("is not known", suggest(section, ["relay"]), section)
    table = tables.get("relay")
    if not isinstance(table, dict):
        wrong("is missing", "write [relay] and names = [...] below it", "relay")
        table = {}
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _CHECKS:
            wrong("is not known", suggest(key, _CHECKS), "relay", key)
            continue
        try:
            found[key] = _CHECKS[key](value, Path(file).parent)
        except BadValue as error:
            wrong(error.what, error.mend, "relay", key)
    raise_all(problems)
    if "names" not in found:
        wrong("is missing", 'add names = ["the host that nodes call it by"]', "relay", "names")
        raise_all(problems)
    config = RelayConfig(**found)
    if len({peer.key for peer in config.peers}) < len(config.peers):
        wrong("has one key twice", "each relay has a key of its own", "relay", "peers")
    if (config.tls_certificate is None) != (config.tls_key is None):
        wrong("stands alone", "give both tls_certificate and tls_key", "relay", "tls_certificate")
    if config.tls_certificate is None and not config.behind_proxy:
        for address in config.listen:
            if not ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_loopback:
                wrong(
                    f"{address} is open to others without TLS",
                    "give tls_certificate and tls_key, or set behind_proxy = true",
                    "relay",
                    "listen",
                )
    raise_all(problems)
    return config
