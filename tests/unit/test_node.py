"""The composition root: what a start that fails leaves, how a node stops, what embedders use."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.config import Config, LinkConfig
from drupelet.config_values import Peer, Place
from drupelet.core.missions import MissionSpec
from drupelet.errors import EXIT_BAD_CONFIGURATION, EXIT_DONE, ConfigError, NoConnection
from drupelet.node import Node, open_node, run_node
from tests.unit.services.nodes import make_config, open_small_node, wait_up


async def test_a_program_serves_and_calls_through_its_own_node(tmp_path: Path) -> None:
    async with open_node(make_config(tmp_path, "gandalf")) as node:
        node.serve("kettle", {"boil": lambda litres: f"{litres} boiled"})
        assert node.name == "gandalf"
        assert len(node.key) == 32
        assert await node.call("gandalf", "kettle", "boil", 2) == "2 boiled"
        assert await node.call_many("gandalf", "kettle", "boil", [[1], [2]]) == [
            "1 boiled",
            "2 boiled",
        ]
        assert await node.multicall(None, "kettle", "boil", 3) == {"gandalf": "3 boiled"}
        await node.cast("gandalf", "kettle", "boil", 4)
        with trio.fail_after(2):
            with pytest.raises(NoConnection, match="no_such_node"):
                await node.call("sauron", "kettle", "boil", 1)


async def test_the_key_outlives_the_node_and_the_incarnation_does_not(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        async with open_node(make_config(tmp_path, "gandalf")) as node:
            found.append((node.key, node.credentials.incarnation))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


async def test_nothing_listens_after_the_block(tmp_path: Path) -> None:
    config = make_config(tmp_path, "gandalf")
    async with open_node(config) as node:
        port = node.port
        assert config.node.socket.exists()
    assert not config.node.socket.exists()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


async def test_a_node_that_is_refused_leaves_nothing_open(tmp_path: Path) -> None:
    """One problem: one `ConfigError`, no group; and its ports are free again."""
    config = make_config(tmp_path, "gandalf")
    config.node.socket.write_text("in the way")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = replace(config, link=replace(config.link, port_min=port, port_max=port))
    with pytest.raises(ConfigError, match="not a socket"):
        async with open_node(config):
            pass
    gc.collect()
    with socket.create_server(("127.0.0.1", port)):
        pass


async def test_a_wrong_mission_file_is_refused_by_name(tmp_path: Path) -> None:
    config = make_config(tmp_path, "gandalf")
    (config.missions.dir / "kettle.toml").write_text('module = "kettle.py"\nexport = ["boil"]\n')
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = replace(config, link=replace(config.link, port_min=port, port_max=port))
    with pytest.raises(ConfigError, match=r"kettle\.toml.*export"):
        async with open_node(config):
            pass
    gc.collect()
    with socket.create_server(("127.0.0.1", port)):
        pass


async def test_stopping_tells_peers_and_refuses_calls(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            await wait_up(gandalf, "bilbo")
            await wait_up(bilbo, "gandalf")
            started = trio.current_time()
            await bilbo.stop()
            assert trio.current_time() - started < 1.0, "both agree at once"
            assert gandalf.membership.nodes()[0].reason == "stopping"
            with pytest.raises(NoConnection, match="stopping"):
                await bilbo.call("gandalf", "node", "ping")


async def test_stopping_does_not_wait_for_a_peer_that_says_nothing(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            await wait_up(bilbo, "gandalf")
            link = gandalf.links.link("bilbo")
            assert link is not None
            link.endpoint.on_control = lambda kind, body: None  # hears the goodbye, does nothing
            with trio.fail_after(3):
                await bilbo.stop()


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        (("0.0.0.0", "::"), "127.0.0.1"),
        (("127.0.0.1",), "127.0.0.1"),
        (("::",), "::1"),
        (("192.168.1.7",), "192.168.1.7"),
        (("192.168.1.7", "::1"), "::1"),
    ],
)
def test_where_the_other_nodes_of_this_machine_answer(listen: tuple[str, ...], host: str) -> None:
    node = object.__new__(Node)
    node.config = Config(link=LinkConfig(listen=listen))
    assert node._own_host() == host


async def test_names_of_the_mapper_are_hints(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_node(make_config(tmp_path, "bilbo")) as bilbo:
            bilbo._on_names([("gandalf", gandalf.port), ("bilbo", 1), ("other", bilbo.port)])
            await wait_up(bilbo, "gandalf")
            known = bilbo.membership.candidates_of("other")
            assert not known, "our own port is no hint, whatever name has it"


# -- the process


def test_run_node_tells_what_is_wrong_and_78(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, "gandalf")
    config.node.socket.write_text("in the way")
    said: list[str] = []
    log = logging.getLogger("drupelet")
    monkeypatch.setattr(log, "critical", lambda text, *args: said.append(text % args))
    assert run_node(config) == EXIT_BAD_CONFIGURATION
    assert len(said) == 1
    assert "[node] socket" in said[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_node_ends_at_a_signal(tmp_path: Path, number: int) -> None:
    config = make_config(tmp_path, "gandalf")

    def on_ready(node: Node) -> None:
        trio.lowlevel.spawn_system_task(kill, number)

    async def kill(number: int) -> None:
        await trio.testing.wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGHUP)  # keeps going
        await trio.testing.wait_all_tasks_blocked()
        os.kill(os.getpid(), number)

    assert run_node(config, on_ready=on_ready) == EXIT_DONE
    assert not config.node.socket.exists()


def test_a_mission_given_by_the_program_is_served(tmp_path: Path) -> None:
    file = tmp_path / "kettle.py"
    file.write_text(
        "from drupelet import mission\n\n\n@mission('kettle')\ndef boil():\n    return True\n"
    )
    config = make_config(tmp_path, "gandalf")
    spec = MissionSpec(name="", modules=(str(file),), directory=str(tmp_path), source="test")

    async def main() -> object:
        with trio.fail_after(20):
            async with open_node(config, [spec]) as node:
                return await node.call("gandalf", "kettle", "boil")

    assert trio.run(main) is True


async def test_configured_peers_are_dialled(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        peers = (Peer(name="", host="127.0.0.1", port=gandalf.port),)
        async with open_node(make_config(tmp_path, "bilbo", peers=peers)) as bilbo:
            await wait_up(bilbo, "gandalf")


async def test_what_a_router_hands_on_is_told_first(tmp_path: Path) -> None:
    config = make_config(tmp_path, "gandalf")
    link = replace(config.link, advertise=(Place(host="pi.example.org", port=4400),))
    async with open_node(replace(config, link=link)) as node:
        assert node._addresses() == [("pi.example.org", 4400), ("127.0.0.1", node.port)]
