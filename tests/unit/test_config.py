from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet import config
from drupelet.config import Config, ConfigErrors, NodeConfig, Peer
from drupelet.errors import EXIT_BAD_CONFIGURATION, ConfigError, exit_code
from drupelet.toml_text import locate_all

ROOT = Path(__file__).resolve().parents[2]
FILE = "/etc/drupelet/drupelet.toml"


def problems(text: str) -> list[tuple[int, str, str]]:
    """(line, key, what) of every problem of a text."""
    with pytest.raises(ConfigError) as caught:
        config.parse(text, FILE)
    error = caught.value
    each = error.problems if isinstance(error, ConfigErrors) else (error,)
    assert all(one.file == FILE and one.mend for one in each)
    return [(one.line, one.key, one.what) for one in each]


def test_nothing_given_means_the_documented_defaults() -> None:
    made = config.parse("", FILE)
    assert made == Config()
    assert str(made.node.state_dir) == "/var/lib/drupelet"
    assert str(made.node.socket) == "/run/drupelet/drupelet.sock"
    assert made.node.environment == "prod"
    assert made.link.listen == ("0.0.0.0", "::")
    assert (made.link.port_min, made.link.port_max) == (4370, 4399)
    assert made.link.peers == ()
    assert str(made.link.cookie_file) == "/etc/drupelet/cookie"
    assert made.mdns.enabled is True
    assert made.mdns.interfaces == ()
    assert made.mdns.socket is None
    assert made.portmapper.enabled is True
    assert (made.portmapper.listen, made.portmapper.port) == (("127.0.0.1", "::1"), 4369)
    assert str(made.missions.dir) == "/etc/drupelet/missions.d"
    assert made.missions.launcher == "systemd"
    assert made.engine.kind == "auto"
    assert made.objects.repository == "sqlite"


def test_load_without_a_file_takes_the_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "bag-end.shire.example.org")
    assert config.load(None) == Config(node=NodeConfig(name="bag-end"))


@pytest.mark.parametrize(
    ("host_name", "name"),
    [("", "node"), ("...", "node"), ("--", "node"), ("über pi", "ber-pi"), ("x" * 90, "x" * 63)],
)
def test_an_odd_host_name_becomes_a_node_name(
    host_name: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host_name)
    assert config.load(None).node.name == name


def test_every_key_is_taken() -> None:
    made = config.parse(
        """
        node = { name = "gandalf", environment = "dev" }
        [link]
        listen = ["127.0.0.1"]
        port_min = 5000
        port_max = 5000
        peers = ["bilbo@192.168.1.7:4370", "frodo@[fe80::1%eth0]:1"]
        cookie_file = "secret"
        [mdns]
        enabled = false
        interfaces = ["eth0", "192.168.1.1"]
        socket = "mdns.sock"
        [portmapper]
        enabled = false
        port = 0
        [missions]
        dir = "m"
        launcher = "subprocess"
        [engine]
        kind = "sqlite"
        [sessions]
        [objects]
        repository = "postgresql"
        [grants]
        caller_rate = " 20/m "
        mission_rate = "3/20s"
        node_rate = "1000000/s"
        concurrent = 1024
        [relay]
        url = "https://relay.example.org:8443/"
        invite = "MZXW6 YTBMFRGG ZDFMZTWQ2LKNE"
        ca_file = "ca.pem"
        """,
        "/home/pi/d.toml",
    )
    assert made.node.name == "gandalf"
    assert made.node.environment == "dev"
    assert made.link.peers == (
        Peer(name="bilbo", host="192.168.1.7", port=4370),
        Peer(name="frodo", host="fe80::1%eth0", port=1),
    )
    assert made.link.cookie_file == Path("/home/pi/secret")
    assert made.missions.dir == Path("/home/pi/m")
    assert made.mdns.interfaces == ("eth0", "192.168.1.1")
    assert made.mdns.socket == Path("/home/pi/mdns.sock")
    assert made.portmapper.port == 0
    assert made.engine.kind == "sqlite"
    assert made.objects.repository == "postgresql"
    assert (made.grants.caller_rate, made.grants.mission_rate) == ("20/m", "3/20s")
    assert (made.grants.node_rate, made.grants.concurrent) == ("1000000/s", 1_024)
    assert made.relay.url == ("https://relay.example.org:8443",)
    assert made.relay.invite == "mzxw6ytbmfrggzdfmztwq2lkne"
    assert made.relay.ca_file == Path("/home/pi/ca.pem")


def test_paths_follow_from_the_file_and_state_dir() -> None:
    made = config.parse('[node]\nstate_dir = "state"', "/home/pi/a/drupelet.toml")
    assert made.node.state_dir == Path("/home/pi/a/state")
    assert made.node.socket == Path("/home/pi/a/state/drupelet.sock")
    assert made.link.cookie_file == Path("/home/pi/a/cookie")
    assert made.missions.dir == Path("/home/pi/a/missions.d")


def test_effective_values_read_back_the_same() -> None:
    text = (
        '[node]\nname = "a"\nstate_dir = "/\u00e9 \\" \\\\ \U0001f353"\n'
        '[link]\npeers = ["b@[::1]:5", "c@d.example:6"]\n[mdns]\ninterfaces = ["e"]\n'
    )
    made = config.parse(text, FILE)
    assert config.parse(config.to_toml(made), "/elsewhere/x.toml") == made


def test_the_sample_shows_every_key_at_its_default() -> None:
    text = (ROOT / "config" / "drupelet.toml").read_text()
    assert config.parse(text, FILE) == Config()
    shown = {key for key in locate_all(text) if len(key) == 2}
    effective = {key for key in locate_all(config.to_toml(Config())) if len(key) == 2}
    assert effective - shown == {("node", "name")}
    assert shown <= effective
    with_name = text.replace('# name = "gandalf"', 'name = "gandalf"')
    assert config.parse(with_name, FILE) == Config(node=NodeConfig(name="gandalf"))
    with_peers = text.replace("\npeers = []", "").replace("# peers", "peers")
    assert len(config.parse(with_peers, FILE).link.peers) == 2


def test_where_a_router_hands_on() -> None:
    text = '[link]\nadvertise = ["pi.example.org:4370", "203.0.113.7:1", "[2001:db8::7]:2"]\n'
    made = config.parse(text, FILE).link.advertise
    assert [(each.host, each.port) for each in made] == [
        ("pi.example.org", 4370),
        ("203.0.113.7", 1),
        ("2001:db8::7", 2),
    ]
    assert config.parse(config.to_toml(config.parse(text, FILE)), FILE).link.advertise == made
    for wrong, words in (
        ("pi.example.org", "is not host:port"),
        ("alice@pi.example.org:4370", "is not host:port"),
        ("pi.example.org:0", "is no port"),
        ("203.0.113.700:1", "is no host name or address"),
        ("2001:db8::7:1", "needs brackets"),
    ):
        [(line, key, what)] = problems(f'[link]\nadvertise = ["{wrong}"]\n')
        assert (line, key) == (2, "link.advertise") and words in what
    four = ", ".join(f'"a.example:{port}"' for port in range(1, 5))
    assert len(config.parse(f"[link]\nadvertise = [{four}]", FILE).link.advertise) == 4
    assert problems(f'[link]\nadvertise = [{four}, "b.example:1"]')


def test_the_drop_in_for_systemd_fits_its_unit() -> None:
    text = (ROOT / "systemd" / "10-systemd.toml").read_text()
    socket_path = config.parse(text, FILE).mdns.socket
    unit = (ROOT / "systemd" / "drupelet-discovery.service").read_text()
    assert f"--socket {socket_path}\n" in unit


# -- refusals


def test_every_problem_is_reported_with_its_line() -> None:
    text = (
        '[node]\nnmae = "x"\nname = 5\n\n[link]\nlisten = [\n  "bad",\n]\nport_min = 70000\n'
        '[lnik]\n[portmapper]\nport = true\nenabled = "yes"\n'
    )
    assert problems(text) == [
        (2, "node.nmae", "is not a known key"),
        (3, "node.name", "must be text, not a whole number"),
        (6, "link.listen", '"bad" is no IP address'),
        (9, "link.port_min", "70000 is no port"),
        (10, "lnik", "is not a known section"),
        (12, "portmapper.port", "must be a whole number, not true or false"),
        (13, "portmapper.enabled", "must be true or false, not text"),
    ]


def test_the_text_of_several_problems_has_one_line_each() -> None:
    with pytest.raises(ConfigErrors) as caught:
        config.parse("[node]\nnmae = 1\n[lnik]\n", FILE)
    assert str(caught.value).split("\n") == [
        f'{FILE}:2: node.nmae: is not a known key; did you mean "name"?',
        f'{FILE}:3: lnik: is not a known section; did you mean "link"?',
    ]
    assert exit_code(caught.value) == EXIT_BAD_CONFIGURATION


@pytest.mark.parametrize(
    ("text", "line", "key", "mend"),
    [
        ('name = "a"', 1, "name", "put it under [node]"),
        ("\nport = 1", 2, "port", "put it under [portmapper]"),
        ("enabled = true", 1, "enabled", "put it under [mdns] or [portmapper]"),
        ("lisstn = 1", 1, "lisstn", 'did you mean "listen"?'),
        ("\n\nnode = 3", 3, "node", "write [node] on a line of its own"),
        ("[[link]]", 1, "link", "write [link] on a line of its own"),
        ("[node]\n'we ird\\u0007' = 1", 2, "node.we ird\\u0007", "remove it or use one of: "),
        ("[sessions]\nttl = 3", 2, "sessions.ttl", "remove it"),
        ('[node]\nenvironment = "prd"', 2, "node.environment", 'did you mean "prod"?'),
        ('[missions]\nlauncher = "podman"', 2, "missions.launcher", '"systemd", "subprocess"'),
        ('[engine]\nkind = "sqllite"', 2, "engine.kind", 'did you mean "sqlite"?'),
        ("[node.name]\nx = 1", 1, "node.name", 'write it as "gandalf"'),
        ("[link]\nport_min = 4400", 2, "link.port_min", "swap or set both"),
        ("[link]\nport_max = 4000", 2, "link.port_max", "swap or set both"),
        ("[link]\n\nport_min = 9\nport_max = 8", 4, "link.port_max", "swap or set both"),
        ("[link]\nport_min = 0", 2, "link.port_min", "set both to 0"),
        (f'[node]\nstate_dir = "/{"x" * 100}"', 2, "node.state_dir", "[node] socket"),
        (
            '[node]\nname = "a@shire"\n[link]\npeers = ["b@c.example:1"]',
            4,
            "link.peers",
            "hosts with dots in both",
        ),
        (
            '[node]\nname = "a@shire.example"\n[link]\npeers = ["b@c:1"]',
            4,
            "link.peers",
            "hosts with dots in both",
        ),
        ('[node]\nname = "a"\nname = "b"', 3, "", "defined twice"),
        ("[node]\n[node]", 2, "", "defined twice"),
        ("[node]\nname = gandalf", 2, "", "double quotes"),
        ("[node\n", 1, "", "key = value"),
        ('[node]\nname = "a', 2, "", "key = value"),
    ],
)
def test_a_refusal_names_line_key_and_mend(text: str, line: int, key: str, mend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, FILE)
    error = caught.value
    assert not isinstance(error, ConfigErrors)
    assert (error.file, error.line, error.key) == (FILE, line, key)
    assert mend in error.mend
    assert str(error).startswith(f"{FILE}:{line}: ")


def test_a_bad_value_brings_no_second_complaint_about_its_default() -> None:
    assert problems("[link]\nport_max = 4000\nport_min = 70000") == [
        (3, "link.port_min", "70000 is no port")
    ]


def test_names_without_a_host_go_with_any_peer() -> None:
    for name in ("a", "a@localhost", "a@10.0.0.1"):
        config.parse(f'[node]\nname = "{name}"\n[link]\npeers = ["b@c:1", "d@e.f:1"]', FILE)
    config.parse('[node]\nname = "a@s.t"\n[link]\npeers = ["b@c.d:1", "e@10.0.0.1:1"]', FILE)


# -- files


def test_conf_d_overrides_in_the_order_of_names(tmp_path: Path) -> None:
    main = tmp_path / "drupelet.toml"
    main.write_text('[node]\nname = "a"\n[link]\npeers = ["x@h:1"]\nport_max = 4371\n')
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "20-b.toml").write_text('[node]\nname = "c"\nstate_dir = "s"\n')
    (tmp_path / "conf.d" / "10-a.toml").write_text('[node]\nname = "b"\n[link]\npeers = []\n')
    (tmp_path / "conf.d" / "30-notes.txt").write_text("not read")
    (tmp_path / "conf.d" / ".30-swap.toml").write_text("not read")
    made = config.load(main)
    assert made.node.name == "c"
    assert made.node.state_dir == tmp_path / "s"  # relative to the main file
    assert made.link.peers == ()
    assert made.link.port_max == 4371


def test_each_error_names_its_own_file(tmp_path: Path) -> None:
    main = tmp_path / "drupelet.toml"
    main.write_text("[node]\nnmae = 1\n[link]\nport_min = 4390\n")
    (tmp_path / "conf.d").mkdir()
    first, second = tmp_path / "conf.d" / "a.toml", tmp_path / "conf.d" / "b.toml"
    first.write_text("broken")
    second.write_bytes(b"\n\n\xff")
    with pytest.raises(ConfigErrors) as caught:
        config.load(main)
    found = [(error.file, error.line) for error in caught.value.problems]
    assert found == [(str(main), 2), (str(first), 1), (str(second), 3)]
    first.write_text("\n[link]\nport_max = 4380\n")
    second.unlink()
    main.write_text("[link]\nport_min = 4390\n")
    with pytest.raises(ConfigError) as one:
        config.load(main)
    assert (one.value.file, one.value.line, one.value.key) == (str(first), 3, "link.port_max")


def test_conf_d_that_is_no_directory_or_too_full(tmp_path: Path) -> None:
    main = tmp_path / "drupelet.toml"
    main.write_text("")
    drop_ins = tmp_path / "conf.d"
    drop_ins.write_text("")
    with pytest.raises(ConfigError, match=r"conf\.d: cannot be read"):
        config.load(main)
    drop_ins.unlink()
    drop_ins.mkdir()
    for number in range(config.FILES_MAX):
        (drop_ins / f"{number}.toml").write_text("")
    config.load(main)
    (drop_ins / "more.toml").write_text("")
    with pytest.raises(ConfigError, match=r"conf\.d: has 257 files"):
        config.load(main)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "none.toml")
    assert caught.value.file == str(tmp_path / "none.toml")
    assert caught.value.what == "no such file"


# -- junk

_PLAIN_WORDS = """
    [node] [link] name port_min peers socket state_dir = "a" [ ] { } # . , true 4370 -1 1e999 nan
    1979-05-27 'b@c:1' ~ "\\u0000" "\\uD800"
"""
_ODD_WORDS = ('"""', "'''", "\n", "\r", "\x00", "\ufeff", "0x" + "f" * 5000)
_WORDS = st.sampled_from((*_PLAIN_WORDS.split(), *_ODD_WORDS))


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(_WORDS, max_size=40).map("".join)))
def test_junk_text_raises_only_config_error(text: str) -> None:
    try:
        config.parse(text, FILE)
    except ConfigError as error:
        assert f"{FILE}:" in str(error)
        assert str(error).isprintable() or isinstance(error, ConfigErrors)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
def test_junk_bytes_raise_only_config_error(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.toml"
    path.write_bytes(data)
    try:
        config.load(path)
    except ConfigError as error:
        assert os.fspath(path) in str(error)
