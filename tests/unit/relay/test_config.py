"""The relay's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from drupelet.errors import ConfigError
from drupelet.relay.config import PeerConfig, RelayConfig, load, parse
from drupelet.wire.keys import key_to_text
from drupelet.wire.limits import RELAY_PEERS_MAX
from tests.unit.relay.nodes import ALICE, node

GOOD = """[relay]
names = ["relay.example.org"]
listen = ["0.0.0.0:443", "[::]:443"]
state_dir = "state"
tls_certificate = "cert.pem"
tls_key = "/keys/key.pem"
"""


KEY = f'key = "{key_to_text(ALICE.key)}"'


def with_peers(*tables: str) -> str:
    listed = ", ".join(f"{{ {table} }}" for table in tables)
    return f'[relay]\nnames = ["a"]\npeers = [{listed}]\n'


def test_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(GOOD)
    assert load(file) == RelayConfig(
        names=("relay.example.org",),
        listen=("0.0.0.0:443", "[::]:443"),
        state_dir=tmp_path / "state",
        tls_certificate=tmp_path / "cert.pem",
        tls_key=Path("/keys/key.pem"),
    )


def test_the_least_file() -> None:
    config = parse('[relay]\nnames = ["localhost"]\n', "relay.toml")
    assert config.listen == ("127.0.0.1:8473",) and not config.behind_proxy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "relay: is missing"),
        ("relay = 1\n", "relay: is missing"),
        ("[relay]\n", "relay.names: is missing"),
        ("[relay]\nnames = []\n", "f:2: relay.names"),
        ('[relay]\nnames = ["a b"]\n', "no host name"),
        ('[relay]\nnames = ["a"]\n\nlisten = ["nowhere:1"]\n', "f:4: relay.listen"),
        ('[relay]\nnames = ["a"]\nlisten = ["127.0.0.1"]\n', "no address and port"),
        ('[relay]\nnames = ["a"]\nlisten = ["127.0.0.1:65536"]\n', "no address and port"),
        ('[relay]\nnames = ["a"]\nlisten = ["0.0.0.0:80"]\n', "without TLS"),
        ('[relay]\nnames = ["a"]\ntls_key = "k"\n', "stands alone"),
        ('[relay]\nnames = ["a"]\nstate_dri = "x"\n', 'did you mean "state_dir"'),
        ('[rely]\nnames = ["a"]\n', 'did you mean "relay"'),
        ('[relay]\nnames = ["a"]\nbehind_proxy = "yes"\n', "true or false"),
        ("[relay\n", "not valid TOML"),
        ('[relay]\nnames = ["a"]\nconnections_per_address = 0\n', "use 1 to 5120"),
        ('[relay]\nnames = ["a"]\nconnections_per_address = 5121\n', "use 1 to 5120"),
        ('[relay]\nnames = ["a"]\nconnections_per_address = true\n', "use 1 to 5120"),
        ('[relay]\nnames = ["a"]\nsends_per_second = 10001\n', "use 1 to 10000"),
        ('[relay]\nnames = ["a"]\npeers = ["x"]\n', 'f:3: relay.peers: "x" is no table'),
        (with_peers('url = "https://b"'), "entry without key"),
        (with_peers('url = "https://b", key = "x"'), "drupelet-relay key"),
        (with_peers(KEY), "entry without url"),
        (with_peers(f'url = "", {KEY}'), "has no address"),
        (with_peers(f'url = "http://b", {KEY}'), "has no TLS"),
        (with_peers(f'url = "https://b", {KEY}, acounts = true'), 'did you mean "accounts"'),
        (with_peers(f'url = "https://b", {KEY}, accounts = 1'), "true or false"),
        (with_peers(f'url = "https://b", {KEY}', f'url = "https://c", {KEY}'), "one key twice"),
        (with_peers(*(f'url = "https://{n}", {KEY}' for n in range(5))), "has 5 entries"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, "f")
    assert words in str(error.value)
    assert str(error.value).startswith("f:")


def test_the_most_connections() -> None:
    text = '[relay]\nnames = ["a"]\nconnections_per_address = 5120\n'
    assert parse(text, "f").connections_per_address == 5_120


def test_the_most_messages_a_second() -> None:
    assert parse('[relay]\nnames = ["a"]\n', "f").sends_per_second == 50
    text = '[relay]\nnames = ["a"]\nsends_per_second = 10000\n'
    assert parse(text, "f").sends_per_second == 10_000


def test_the_most_peers() -> None:
    keys = [key_to_text(node(number).key) for number in range(1, RELAY_PEERS_MAX + 1)]
    text = with_peers(*(f'url = "https://{key[:8]}", key = "{key}"' for key in keys))
    assert len(parse(text, "f").peers) == RELAY_PEERS_MAX
    table = f'[[relay.peers]]\nurl = "https://b"\n{KEY}\nca_file = "b.pem"\naccounts = false\n'
    [peer] = parse(f'[relay]\nnames = ["a"]\n{table}', "/etc/f").peers
    assert peer == PeerConfig(
        url="https://b", key=ALICE.key, ca_file=Path("/etc/b.pem"), accounts=False
    )


def test_a_proxy_does_tls() -> None:
    text = '[relay]\nnames = ["a"]\nlisten = ["0.0.0.0:80"]\nbehind_proxy = true\n'
    assert parse(text, "f").behind_proxy
