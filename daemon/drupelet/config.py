"""Configuration: TOML text to frozen dataclasses, or a list of what is wrong with it.

Decides what a configuration may hold, what stands when a key is left out, and what a person is
told: every problem in every file at once, each with file, line, key, what is wrong and the mend.

Rules
- Only `load` touches files; everything else is a function of its arguments.
- `load(drupelet.toml)` also reads ``conf.d/*.toml`` beside it in the order of their names; a later
  value replaces an earlier one whole (lists are not joined). An error names the file it is in.
- Paths are relative to the directory of the main file, in ``conf.d`` too: a line means the same in
  either place. Left out, `cookie_file` and `missions.dir` lie in that directory and `socket` in
  `state_dir` when that was given, so that many nodes run on one machine as an ordinary user.
- Whatever the bytes, nothing but `ConfigError` comes out (tests/unit/test_config.py).

Rejected: environment variables in values (a unit's drop-in does that, visibly); lists that add up
over files (there would be no way to take an entry out).
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import json
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from drupelet.errors import ConfigError
from drupelet.toml_text import (
    ConfigErrors,
    locate,
    locate_all,
    parse_toml,
    printable,
    raise_all,
    read_text,
    suggest,
)
from drupelet.wire import limits

__all__ = [
    "Config",
    "ConfigErrors",
    "EngineConfig",
    "LinkConfig",
    "MdnsConfig",
    "MissionsConfig",
    "NodeConfig",
    "ObjectsConfig",
    "Peer",
    "PortMapperConfig",
    "RelayConfig",
    "SessionsConfig",
    "known_keys",
    "load",
    "locate",
    "parse",
    "to_toml",
]

FILES_MAX: Final = 256  # in conf.d; more is a directory given by mistake
NODE_NAME_CHARS_MAX: Final = limits.TARGET_BYTES_MAX - 2 * (
    1 + limits.NAME_CHARS_MAX
)  # in a target
SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path of unix(7) is 108 bytes with its closing zero
INTERFACE_CHARS_MAX: Final = 15  # IFNAMSIZ of netdevice(7) without its closing zero
LISTEN_ADDRESSES_MAX: Final = 16  # one socket each
INTERFACES_MAX: Final = 16

ETC: Final = Path("/etc/drupelet")
STATE_DIR: Final = Path("/var/lib/drupelet")
SOCKET: Final = Path("/run/drupelet/drupelet.sock")
SOCKET_NAME: Final = "drupelet.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A static peer: `name` its label, `host` an address or host name without brackets."""

    name: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.name}@{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    name: str = "node"  # `load` puts the host name here
    state_dir: Path = STATE_DIR
    socket: Path = SOCKET
    environment: str = "prod"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    listen: tuple[str, ...] = ("0.0.0.0", "::")
    port_min: int = 4370
    port_max: int = 4399
    peers: tuple[Peer, ...] = ()
    cookie_file: Path = ETC / "cookie"


@dataclass(frozen=True, slots=True, kw_only=True)
class MdnsConfig:
    enabled: bool = True
    interfaces: tuple[str, ...] = ()  # names or addresses; none: all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapperConfig:
    enabled: bool = True
    listen: tuple[str, ...] = ("127.0.0.1", "::1")
    port: int = 4369  # epmd's, IANA


@dataclass(frozen=True, slots=True, kw_only=True)
class MissionsConfig:
    dir: Path = ETC / "missions.d"
    launcher: str = "systemd"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    kind: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsConfig:
    """No keys yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectsConfig:
    repository: str = "sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayConfig:
    """No keys yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration; one field per section, named like it."""

    node: NodeConfig = NodeConfig()
    link: LinkConfig = LinkConfig()
    mdns: MdnsConfig = MdnsConfig()
    portmapper: PortMapperConfig = PortMapperConfig()
    missions: MissionsConfig = MissionsConfig()
    engine: EngineConfig = EngineConfig()
    sessions: SessionsConfig = SessionsConfig()
    objects: ObjectsConfig = ObjectsConfig()
    relay: RelayConfig = RelayConfig()


_SECTIONS: Final[dict[str, Callable[..., object]]] = {
    "node": NodeConfig,
    "link": LinkConfig,
    "mdns": MdnsConfig,
    "portmapper": PortMapperConfig,
    "missions": MissionsConfig,
    "engine": EngineConfig,
    "sessions": SessionsConfig,
    "objects": ObjectsConfig,
    "relay": RelayConfig,
}


# -- values


class _BadValue(Exception):
    """A value that a key does not take."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend


_Check: TypeAlias = Callable[[object, Path], object]
_TYPE_NAMES: Final[dict[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a point",
    str: "text",
    list: "a list",
    dict: "a table",
}
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_SIMPLE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")


def _show(value: object) -> str:
    shown = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
    return printable(shown if len(shown) <= 80 else shown[:77] + "...")


def _expect(value: object, wanted: type, example: str) -> None:
    if type(value) is not wanted:  # `is`: a bool is an int to isinstance
        got = _TYPE_NAMES.get(type(value), "a date or time")
        raise _BadValue(f"must be {_TYPE_NAMES[wanted]}, not {got}", f"write it as {example}")


def _boolean(value: object, base: Path) -> bool:
    _expect(value, bool, "true or false, without quotes")
    return bool(value)


def _port(value: object, base: Path) -> int:
    _expect(value, int, "a number such as 4370, without quotes")
    assert isinstance(value, int)
    if not 0 <= value <= 65_535:
        raise _BadValue(f"{_show(value)} is no port", "use 0 to 65535 (0: any free port)")
    return value


def _text(value: object, example: str) -> str:
    _expect(value, str, example)
    assert isinstance(value, str)
    return value


def _one_of(*choices: str) -> _Check:
    def check(value: object, base: Path) -> str:
        word = _text(value, f'"{choices[0]}"')
        if word not in choices:
            known = ", ".join(f'"{choice}"' for choice in choices)
            near = difflib.get_close_matches(word[:64].lower(), choices, n=1, cutoff=0.6)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise _BadValue(f"{_show(word)} is not known", f"use one of {known}{hint}")
        return word

    return check


def _path(value: object, base: Path) -> Path:
    word = _text(value, '"/a/path"')
    if not word or not word.isprintable():
        raise _BadValue(f"{_show(word)} is no path", 'write a path such as "/var/lib/drupelet"')
    if word.startswith("~"):
        raise _BadValue(f"{_show(word)}: ~ is not expanded here", "write the path in full")
    return base / word


def _socket_path(value: object, base: Path) -> Path:
    path = _path(value, base)
    _check_socket_path(path)
    return path


def _check_socket_path(path: Path) -> None:
    if (size := len(str(path).encode())) > SOCKET_PATH_BYTES_MAX:
        raise _BadValue(
            f"the socket's path {_show(str(path))} has {size} bytes, Unix allows"
            f" {SOCKET_PATH_BYTES_MAX}",
            "choose a shorter one with [node] socket",
        )


def _list_of(check: _Check, count_max: int, example: str, *, count_min: int = 0) -> _Check:
    def check_list(value: object, base: Path) -> tuple[object, ...]:
        _expect(value, list, example)
        assert isinstance(value, list)
        if not count_min <= len(value) <= count_max:
            raise _BadValue(f"has {len(value)} entries", f"give {count_min} to {count_max}")
        items = tuple(check(item, base) for item in value)
        for place, item in enumerate(items):
            if item in items[:place]:
                raise _BadValue(f"{_show(value[place])} stands twice", "remove one of them")
        return items

    return check_list


def _address(value: object, base: Path) -> str:
    word = _text(value, '"0.0.0.0"')
    try:
        address = ipaddress.ip_address(word)
    except ValueError:
        raise _BadValue(
            f"{_show(word)} is no IP address",
            'use one such as "0.0.0.0", "::" or "192.168.1.7" (no host names, no port)',
        ) from None
    if address.is_multicast:
        raise _BadValue(f"{_show(word)} is a multicast address", "use an address of this machine")
    return word


def _interface(value: object, base: Path) -> str:
    word = _text(value, '"eth0"')
    try:
        ipaddress.ip_address(word)
    except ValueError:
        if not re.fullmatch(rf"[^\s/:]{{1,{INTERFACE_CHARS_MAX}}}", word) or not word.isprintable():
            raise _BadValue(
                f"{_show(word)} is no network interface", 'use a name such as "eth0" or an address'
            ) from None
    return word


def _node_name(value: object, base: Path) -> str:
    word = _text(value, '"gandalf"')
    label, at, host = word.partition("@")
    _check_label(label)
    if at:
        _check_host(host, '"gandalf", "gandalf@shire" or "gandalf@shire.example.org"')
    if len(word) > NODE_NAME_CHARS_MAX:
        raise _BadValue(
            f"has {len(word)} characters", f"use at most {NODE_NAME_CHARS_MAX} for name@host"
        )
    return word


def _check_label(label: str) -> None:
    if not _SIMPLE_NAME.match(label):
        raise _BadValue(
            f"{_show(label)} is no node name",
            "use letters, digits, - and _, beginning with a letter or digit",
        )
    if len(label) > limits.NAME_CHARS_MAX:
        raise _BadValue(
            f"the node name has {len(label)} characters",
            f"use at most {limits.NAME_CHARS_MAX} before the @",
        )


def _check_host(host: str, example: str) -> None:
    if not _is_address(host) and (
        len(host) > limits.HOST_CHARS_MAX
        or not all(_LABEL.match(label) for label in host.removesuffix(".").split("."))
        or host.rsplit(".", 1)[-1].isdigit()  # 192.168.1.700 is a typing error, not a host
    ):
        raise _BadValue(f"{_show(host)} is no host name or address", f"write it as {example}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _peer(value: object, base: Path) -> Peer:
    example = '"bilbo@192.168.1.7:4370", "bilbo@shire.local:4370" or "bilbo@[fe80::1%eth0]:4370"'
    word = _text(value, example)
    label, at, place = word.partition("@")
    host, colon, port = place.rpartition(":")
    if not at or not colon or not host:
        raise _BadValue(f"{_show(word)} is not name@host:port", f"write it as {example}")
    _check_label(label)
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
        raise _BadValue(f"{_show(word)}: {_show(port)} is no port", "use 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host or not _is_address(host):
            raise _BadValue(f"{_show(host)} is no IPv6 address", f"write it as {example}")
    elif ":" in host:
        raise _BadValue(f"{_show(word)}: an IPv6 address needs brackets", f"write it as {example}")
    else:
        _check_host(host, example)
    return Peer(name=label, host=host, port=int(port))


_LISTEN: Final = _list_of(_address, LISTEN_ADDRESSES_MAX, '["0.0.0.0", "::"]', count_min=1)
_SCHEMA: Final[dict[str, dict[str, _Check]]] = {
    "node": {
        "name": _node_name,
        "state_dir": _path,
        "socket": _socket_path,
        "environment": _one_of("prod", "dev"),
    },
    "link": {
        "listen": _LISTEN,
        "port_min": _port,
        "port_max": _port,
        "peers": _list_of(_peer, limits.CANDIDATES_MAX, '["bilbo@192.168.1.7:4370"]'),
        "cookie_file": _path,
    },
    "mdns": {"enabled": _boolean, "interfaces": _list_of(_interface, INTERFACES_MAX, '["eth0"]')},
    "portmapper": {"enabled": _boolean, "listen": _LISTEN, "port": _port},
    "missions": {"dir": _path, "launcher": _one_of("systemd", "subprocess")},
    "engine": {"kind": _one_of("auto", "sqlite", "etcd", "postgresql")},
    "sessions": {},
    "objects": {"repository": _one_of("sqlite", "postgresql")},
    "relay": {},
}


# -- from texts to a Config


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """A checked value and where it stands."""

    value: object
    file: str
    line: int


_Settings: TypeAlias = dict[tuple[str, str], _Setting]


def load(path: Path | None) -> Config:
    """Read a configuration file and ``conf.d/*.toml`` beside it; None: the built-in defaults.

    Raises: `ConfigError` (`ConfigErrors` for several problems).
    """
    host_name = _usable_host_name(socket.gethostname())
    if path is None:
        return _build({}, ETC, host_name, [])
    directory = path.absolute().parent
    settings: _Settings = {}
    problems: list[ConfigError] = []
    try:
        files = [path, *_drop_ins(directory / "conf.d")]
    except ConfigError as error:
        files = [path]
        problems.append(error)
    for file in files:
        try:
            _collect(read_text(file), str(file), directory, settings, problems)
        except ConfigError as error:
            problems.append(error)
    return _build(settings, directory, host_name, problems)


def parse(text: str, file: str, *, host_name: str = "node") -> Config:
    """One text as `load` would take it from `file`; touches nothing.

    Raises: `ConfigError` (`ConfigErrors` for several problems).
    """
    directory = Path(file).parent
    settings: _Settings = {}
    problems: list[ConfigError] = []
    _collect(text, file, directory, settings, problems)
    return _build(settings, directory, host_name, problems)


def _drop_ins(directory: Path) -> list[Path]:
    try:
        files = sorted(directory.glob("*.toml"))
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error}", mend="check its owner and mode", file=str(directory)
        ) from None
    if len(files) > FILES_MAX:
        raise ConfigError(
            f"has {len(files)} files", mend=f"keep at most {FILES_MAX}", file=str(directory)
        )
    return files


def _usable_host_name(host_name: str) -> str:
    label = re.sub(r"[^A-Za-z0-9_-]", "-", host_name.split(".", 1)[0])
    return label.strip("-_")[: limits.NAME_CHARS_MAX] or "node"


def _collect(
    text: str, file: str, base: Path, settings: _Settings, problems: list[ConfigError]
) -> None:
    """Put a text's checked values into `settings` and everything wrong with it into `problems`."""
    try:
        tables = parse_toml(text, file)
    except ConfigError as error:
        problems.append(error)
        return
    lines = locate_all(text)
    for section, table in tables.items():
        line = lines.get((section,), 1)
        checks = _SCHEMA.get(section)
        if checks is None:
            what, mend = _unknown_section(section, table)
            problems.append(ConfigError(what, mend=mend, file=file, line=line, key=section))
            continue
        if not isinstance(table, dict):
            mend = f"write [{section}] on a line of its own"
            problems.append(
                ConfigError("is a section", mend=mend, file=file, line=line, key=section)
            )
            continue
        for key, value in table.items():
            line_of_key = lines.get((section, key), line)
            dotted = f"{section}.{printable(key)}"
            try:
                if key not in checks:
                    raise _BadValue("is not a known key", suggest(key, checks))
                checked = checks[key](value, base)
                settings[section, key] = _Setting(value=checked, file=file, line=line_of_key)
            except _BadValue as bad:
                problems.append(
                    ConfigError(bad.what, mend=bad.mend, file=file, line=line_of_key, key=dotted)
                )


def _unknown_section(name: str, table: object) -> tuple[str, str]:
    if isinstance(table, dict):
        return "is not a known section", suggest(name, _SCHEMA)
    homes = [section for section, checks in _SCHEMA.items() if name in checks]
    if homes:
        where = " or ".join(f"[{home}]" for home in homes)
        return "stands outside its section", f"put it under {where}"
    known = {key for checks in _SCHEMA.values() for key in checks}
    return "is not a known key", suggest(name, known)


def _build(
    settings: _Settings, directory: Path, host_name: str, problems: list[ConfigError]
) -> Config:
    chosen: dict[str, dict[str, object]] = {section: {} for section in _SCHEMA}
    for (section, key), setting in settings.items():
        chosen[section][key] = setting.value
    chosen["node"].setdefault("name", host_name)
    chosen["link"].setdefault("cookie_file", directory / "cookie")
    chosen["missions"].setdefault("dir", directory / "missions.d")
    state_dir = chosen["node"].get("state_dir")
    if isinstance(state_dir, Path) and state_dir != STATE_DIR:
        chosen["node"].setdefault("socket", state_dir / SOCKET_NAME)
    sections = {name: make(**chosen[name]) for name, make in _SECTIONS.items()}
    make_config: Callable[..., Config] = Config
    config = make_config(**sections)
    _check_together(config, settings, problems)
    raise_all(problems)
    return config


def _check_together(config: Config, settings: _Settings, problems: list[ConfigError]) -> None:
    """What no key can tell alone."""

    def refuse(what: str, mend: str, *keys: tuple[str, str]) -> None:
        given = [key for key in keys if key in settings]
        place = max(given, key=lambda key: (settings[key].file, settings[key].line))
        setting = settings[place]
        problems.append(
            ConfigError(what, mend=mend, file=setting.file, line=setting.line, key=".".join(place))
        )

    link = config.link
    if link.port_min > link.port_max:
        what = f"port_min {link.port_min} is above port_max {link.port_max}"
        refuse(what, "swap or set both", ("link", "port_min"), ("link", "port_max"))
    elif link.port_min == 0 and link.port_max != 0:
        what = "port_min 0 means any free port and goes only with port_max 0"
        refuse(what, "set both to 0 or neither", ("link", "port_min"))
    if ("node", "socket") not in settings:
        try:
            _check_socket_path(config.node.socket)
        except _BadValue as bad:
            refuse(bad.what, bad.mend, ("node", "state_dir"))
    _, at, own_host = config.node.name.partition("@")
    for peer in link.peers if at else ():
        if _is_long(own_host) is not (_is_long(peer.host) or _is_neutral(peer.host)):
            if _is_neutral(peer.host) or _is_neutral(own_host):
                continue
            what = f"{_show(str(peer))} mixes long and short names with {_show(config.node.name)}"
            mend = "use hosts with dots in both, in neither, or an IP address for the peer"
            refuse(what, mend, ("link", "peers"))
            break


def _is_long(host: str) -> bool:
    return "." in host


def _is_neutral(host: str) -> bool:
    return _is_address(host) or host == "localhost"


# -- back to TOML


def to_toml(config: Config) -> str:
    """The effective values; `parse` gives the same `Config` again."""
    blocks = []
    for section in dataclasses.fields(config):
        table = getattr(config, section.name)
        lines = [f"[{section.name}]"]
        for key in dataclasses.fields(table):
            lines.append(f"{key.name} = {_toml_value(getattr(table, key.name))}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _toml_value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case tuple():
            return "[" + ", ".join(_toml_value(item) for item in value) + "]"
        case _:  # JSON's escapes are TOML's, but for DEL
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def known_keys() -> Mapping[str, tuple[str, ...]]:
    """Every section with its keys, for completion and for the test of the sample."""
    return {section: tuple(checks) for section, checks in _SCHEMA.items()}
