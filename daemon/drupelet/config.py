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
import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from drupelet import config_values as values
from drupelet.config_values import BadValue, Check, Peer, Place, is_address, show
from drupelet.errors import ConfigError
from drupelet.toml_text import (
    ConfigErrors,
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
    "GrantsConfig",
    "LinkConfig",
    "MdnsConfig",
    "MissionsConfig",
    "NodeConfig",
    "ObjectsConfig",
    "Peer",
    "PortMapperConfig",
    "RelayConfig",
    "SessionsConfig",
    "load",
    "parse",
    "to_toml",
]

LISTEN_ADDRESSES_MAX: Final = 16  # one socket each
INTERFACES_MAX: Final = 16
FILES_MAX: Final = 256  # in conf.d; more is a directory given by mistake

ETC: Final = Path("/etc/drupelet")
STATE_DIR: Final = Path("/var/lib/drupelet")
SOCKET: Final = Path("/run/drupelet/drupelet.sock")
SOCKET_NAME: Final = "drupelet.sock"


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
    advertise: tuple[Place, ...] = ()  # where a router hands on to this node
    peers: tuple[Peer, ...] = ()
    cookie_file: Path = ETC / "cookie"


@dataclass(frozen=True, slots=True, kw_only=True)
class MdnsConfig:
    enabled: bool = True
    interfaces: tuple[str, ...] = ()  # names or addresses; none: all of them
    socket: Path | None = None  # where the mDNS process connects; none: the daemon starts it


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
class GrantsConfig:
    """The owner's own limits, over all grants: core/grants.py."""

    caller_rate: str = "1000/s"
    mission_rate: str = "10000/s"
    node_rate: str = "10000/s"
    concurrent: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayConfig:
    url: tuple[str, ...] = ()  # one of them at a time; none: this node uses no relay
    invite: str = ""  # the code with which it registers, once
    email: str = ""  # or for the relay's owner, who approves it
    ca_file: Path | None = None  # none: the system's certificate authorities


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
    grants: GrantsConfig = GrantsConfig()
    relay: RelayConfig = RelayConfig()


_SECTIONS: Final[dict[str, Callable[..., object]]] = {
    field.name: type(field.default) for field in dataclasses.fields(Config)
}
_LISTEN: Final = values.list_of(
    values.address, LISTEN_ADDRESSES_MAX, '["0.0.0.0", "::"]', count_min=1
)
_SCHEMA: Final[dict[str, dict[str, Check]]] = {
    "node": {
        "name": values.node_name,
        "state_dir": values.path_of,
        "socket": values.socket_path,
        "environment": values.one_of("prod", "dev"),
    },
    "link": {
        "listen": _LISTEN,
        "port_min": values.port,
        "port_max": values.port,
        "advertise": values.list_of(values.place, limits.ADVERTISED_MAX, '["pi.example.org:4370"]'),
        "peers": values.list_of(values.peer, limits.CANDIDATES_MAX, '["bilbo@192.168.1.7:4370"]'),
        "cookie_file": values.path_of,
    },
    "mdns": {
        "enabled": values.boolean,
        "interfaces": values.list_of(values.interface, INTERFACES_MAX, '["eth0"]'),
        "socket": values.optional_socket_path,
    },
    "portmapper": {"enabled": values.boolean, "listen": _LISTEN, "port": values.port},
    "missions": {"dir": values.path_of, "launcher": values.one_of("systemd", "subprocess")},
    "engine": {"kind": values.one_of("auto", "sqlite", "etcd", "postgresql")},
    "sessions": {},
    "objects": {"repository": values.one_of("sqlite", "postgresql")},
    "grants": {
        "caller_rate": values.rate,
        "mission_rate": values.rate,
        "node_rate": values.rate,
        "concurrent": values.number(1, limits.LEASES_MAX),
    },
    "relay": {
        "url": values.relay_urls,
        "invite": values.invite_code,
        "email": values.email,
        "ca_file": values.optional_path,
    },
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
        files = sorted(
            entry
            for entry in directory.iterdir()
            if entry.suffix == ".toml" and not entry.name.startswith(".")  # editors' own
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            mend="it must be a directory that this user may read",
            file=str(directory),
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
            shown = printable(section)
            problems.append(ConfigError(what, mend=mend, file=file, line=line, key=shown))
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
                    raise BadValue("is not a known key", suggest(key, checks))
                checked = checks[key](value, base)
                settings.pop((section, key), None)  # so that the latest stands last
                settings[section, key] = _Setting(value=checked, file=file, line=line_of_key)
            except BadValue as bad:
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
        place = [key for key in settings if key in keys][-1]  # settings are in the order read
        setting = settings[place]
        problems.append(
            ConfigError(what, mend=mend, file=setting.file, line=setting.line, key=".".join(place))
        )

    link = config.link
    refused = {problem.key for problem in problems}  # a default stands in for these
    if refused & {"link.port_min", "link.port_max"}:
        pass
    elif link.port_min > link.port_max:
        what = f"port_min {link.port_min} is above port_max {link.port_max}"
        refuse(what, "swap or set both", ("link", "port_min"), ("link", "port_max"))
    elif link.port_min == 0 and link.port_max != 0:
        what = "port_min 0 means any free port and goes only with port_max 0"
        refuse(what, "set both to 0 or neither", ("link", "port_min"))
    if ("node", "socket") not in settings:
        try:
            values.check_socket_path(config.node.socket)
        except BadValue as bad:
            refuse(bad.what, bad.mend, ("node", "state_dir"))
    _, at, own_host = config.node.name.partition("@")
    for peer in link.peers if at and not _is_neutral(own_host) else ():
        if not _is_neutral(peer.host) and ("." in peer.host) is not ("." in own_host):
            what = f"{show(str(peer))} mixes long and short names with {show(config.node.name)}"
            mend = "use hosts with dots in both, in neither, or an IP address for the peer"
            refuse(what, mend, ("link", "peers"))


def _is_neutral(host: str) -> bool:
    """Neither long nor short: such a host reaches the same machine from both kinds of name."""
    return is_address(host) or host == "localhost"


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
        case None:
            return '""'
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case tuple():
            return "[" + ", ".join(_toml_value(item) for item in value) + "]"
        case _:  # JSON's escapes are TOML's, but for DEL
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
