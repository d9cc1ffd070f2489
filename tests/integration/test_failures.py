"""The failure bars of the first session, on real processes: S001-5, S001-9, and `drupelet why`.

What is measured is what a program sees: node events of a client, exit codes and words of the
command line, processes and files that are left.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import trio

from drupelet.client import NodeDown, NodeUp, open_client
from drupelet.errors import EXIT_BAD_CONFIGURATION, EXIT_NO_CONNECTION, NoConnection, RemoteError
from tests.integration.cluster import Cluster, RealNode, children, free_port, is_running, wait_gone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

KILLED_S = 0.1  # NodeDown after kill -9
SILENT_S = 5.0  # NodeDown after SIGSTOP
TOLD_S = 2.0  # a caller is told why a node cannot be reached


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


async def pair(cluster: Cluster) -> tuple[RealNode, RealNode]:
    """gandalf, and bilbo who knows him; linked."""
    gandalf = cluster.start("gandalf")
    bilbo = cluster.start("bilbo", gandalf)
    await gandalf.wait_up("bilbo")
    await bilbo.wait_up("gandalf")
    return gandalf, bilbo


# -- a node that ends, hangs, comes back


async def test_a_killed_node_is_noticed_at_once(cluster: Cluster) -> None:
    gandalf, bilbo = await pair(cluster)
    async with gandalf.watch() as watch:
        started = time.monotonic()
        bilbo.signal(signal.SIGKILL)
        event = await watch.next()
        took_s = time.monotonic() - started
    print(f"NodeDown {took_s * 1000:.1f} ms after kill -9")
    assert isinstance(event, NodeDown)
    assert (event.name, event.reason) == ("bilbo", "closed")
    assert took_s <= KILLED_S


async def test_a_stopped_node_is_declared_down_and_learns_it(cluster: Cluster) -> None:
    gandalf, bilbo = await pair(cluster)
    async with gandalf.watch() as watch:
        started = time.monotonic()
        bilbo.signal(signal.SIGSTOP)
        event = await watch.next()
        took_s = time.monotonic() - started
        print(f"NodeDown {took_s:.2f} s after SIGSTOP")
        assert isinstance(event, NodeDown)
        assert (event.name, event.reason) == ("bilbo", "down")
        assert took_s <= SILENT_S
        started = time.monotonic()
        bilbo.signal(signal.SIGCONT)
        event = await watch.next(10.0)
        print(f"NodeUp {time.monotonic() - started:.2f} s after SIGCONT")
        assert isinstance(event, NodeUp)
    await bilbo.wait_up("gandalf")
    assert bilbo.status()["declared_down_count"] == 1
    assert gandalf.status()["declared_down_count"] == 0
    assert bilbo.run("call", "gandalf", "node", "ping").stdout.strip() == '"pong"'


async def test_a_call_under_way_ends_when_its_node_is_killed(cluster: Cluster) -> None:
    gandalf, bilbo = await pair(cluster)
    outcome: list[object] = []
    async with open_client(gandalf.socket_path) as node:

        async def call() -> None:
            started = time.monotonic()
            try:
                await node.call("bilbo", "echo", "echo_later", 1, 30.0, timeout=20.0)
            except Exception as error:
                outcome.extend([error, time.monotonic() - started])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            while (await node.call("bilbo", "node", "ping")) != "pong":  # behind the other call
                pass
            bilbo.signal(signal.SIGKILL)
    error, took_s = outcome
    assert getattr(error, "reason", "") == "closed"
    assert getattr(error, "maybe_ran", False) is True
    assert isinstance(took_s, float)
    assert took_s < 2.0


async def test_a_restarted_node_rejoins(cluster: Cluster) -> None:
    gandalf, bilbo = await pair(cluster)
    key = bilbo.status()["key"]
    async with gandalf.watch() as watch:
        bilbo.signal(signal.SIGKILL)
        bilbo.wait()
        assert isinstance(await watch.next(), NodeDown)
        bilbo.start()
        event = await watch.next(5.0)
        assert isinstance(event, NodeUp)
        assert (event.name, event.key) == ("bilbo", key)
    assert gandalf.run("call", "bilbo", "node", "ping").stdout.strip() == '"pong"'
    assert gandalf.status()["nodes_up"] == 1
    assert gandalf.status()["nodes_down"] == 0


async def test_the_second_node_of_a_name_is_told_so(cluster: Cluster) -> None:
    gandalf, _bilbo = await pair(cluster)
    impostor = cluster.start("impostor", gandalf, name="bilbo")
    told = impostor.run("--json", "ping", "gandalf")
    assert told.returncode == EXIT_NO_CONNECTION
    assert json.loads(told.stdout)["reason"] == "name_taken"
    assert gandalf.run("call", "bilbo", "node", "ping").stdout.strip() == '"pong"'
    assert gandalf.status()["nodes_up"] == 1


# -- the caller is told which


@pytest.mark.parametrize("reason", ["bad_cookie", "version", "port_closed", "no_such_node"])
async def test_the_caller_is_told_within_two_seconds(cluster: Cluster, reason: str) -> None:
    gandalf = cluster.start("gandalf", cookie_file=cluster.directory / "cookie")
    bilbo = cluster.add("bilbo", gandalf)
    if reason == "bad_cookie":
        bilbo.cookie_file = cluster.directory / "other"
    elif reason == "version":
        bilbo.program = VERSION_NINE
    elif reason == "port_closed":
        bilbo.peers = (f"gandalf@127.0.0.1:{free_port()}",)
    else:
        bilbo.peers = ()
    bilbo.start()
    started = time.monotonic()
    called = bilbo.run("--json", "call", "gandalf", "node", "ping")
    took_s = time.monotonic() - started
    print(f"{reason}: told in {took_s:.2f} s")
    assert called.returncode == EXIT_NO_CONNECTION
    assert json.loads(called.stdout)["error"]["reason"] == reason
    assert took_s <= TOLD_S


# A daemon that speaks only version 9, which nobody does.
VERSION_NINE = (
    "-c",
    "import functools, sys; from drupelet.cli import daemon; from drupelet.services import links; "
    "links.Initiator = functools.partial(links.Initiator, version=9); sys.exit(daemon.main())",
)


# -- refusals to start


@dataclass
class Refusal:
    """How to make a start fail, and words that the message must have."""

    prepare: Callable[[Cluster, RealNode], AbstractContextManager[object]]
    words: tuple[str, ...]


def open_cookie(cluster: Cluster, node: RealNode) -> AbstractContextManager[object]:
    node.cookie_file.write_text("0123456789abcdef0123456789abcdef01234567\n")
    node.cookie_file.chmod(0o644)
    return nullcontext()


def taken_ports(cluster: Cluster, node: RealNode) -> AbstractContextManager[object]:
    return socket.create_server(("127.0.0.1", node.port))


def read_only_state(cluster: Cluster, node: RealNode) -> AbstractContextManager[object]:
    return Mounted(node.state_dir, "ro")


def full_disk(cluster: Cluster, node: RealNode) -> AbstractContextManager[object]:
    return Mounted(node.state_dir, "size=4k,nr_inodes=1")


def file_for_directory(cluster: Cluster, node: RealNode) -> AbstractContextManager[object]:
    node.state_dir.write_text("")
    return nullcontext()


def no_socket_directory(cluster: Cluster, node: RealNode) -> AbstractContextManager[object]:
    (cluster.directory / "file").write_text("")
    node.socket_override = cluster.directory / "file" / "sock"
    return nullcontext()


def file_for_socket(cluster: Cluster, node: RealNode) -> AbstractContextManager[object]:
    node.socket_path.write_text("")
    return nullcontext()


def second_daemon(cluster: Cluster, node: RealNode) -> AbstractContextManager[object]:
    first = cluster.start("first")
    node.socket_override = first.socket_path
    return nullcontext()


class Mounted:
    """A tmpfs of its own on a directory; needs root."""

    def __init__(self, directory: Path, options: str) -> None:
        self._directory = directory
        self._options = options

    def __enter__(self) -> None:
        if os.geteuid() != 0 or shutil.which("mount") is None:
            pytest.skip("mounting needs root")
        self._directory.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", self._options, "none", str(self._directory)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no mounts here")

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self._directory)], check=True)


REFUSALS = {
    "cookie-0644": Refusal(open_cookie, ("cookie", "mode 0644", "chmod 600")),
    "ports-taken": Refusal(taken_ports, ("link ports {port} are taken", "port_max")),
    "read-only": Refusal(read_only_state, ("{state_dir}", "read-only")),
    "full-disk": Refusal(full_disk, ("{state_dir}", "room")),
    "state-is-a-file": Refusal(file_for_directory, ("{state_dir}", "[node] state_dir")),
    "socket-directory": Refusal(no_socket_directory, ("[node] socket", "directory")),
    "socket-is-a-file": Refusal(file_for_socket, ("is not a socket", "[node] socket")),
    "second-daemon": Refusal(second_daemon, ("another drupeletd", "[node] socket")),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_node_that_cannot_start_says_why(cluster: Cluster, case: str) -> None:
    refusal = REFUSALS[case]
    node = cluster.add("gandalf")
    with refusal.prepare(cluster, node):
        node.launch()
        code = node.wait(15.0)
    assert code == EXIT_BAD_CONFIGURATION, node.log
    assert "Traceback" not in node.log
    for word in refusal.words:
        assert word.format(port=node.port, state_dir=node.state_dir) in node.log


def test_a_port_of_the_pool_that_is_taken_is_skipped(cluster: Cluster) -> None:
    node = cluster.add("gandalf")
    node.port_max = node.port + 5
    with socket.create_server(("127.0.0.1", node.port)):
        node.start()
        assert node.status()["port"] != node.port


# -- workers


async def test_a_killed_worker_is_restarted_and_callers_are_told(cluster: Cluster) -> None:
    node = cluster.start("gandalf", missions={"echo": ("echo", "echo_later")})
    (worker,) = node.workers()
    async with open_client(node.socket_path) as client:

        async def kill() -> None:
            while await client.call("", "echo", "echo", 1) != 1:  # behind the call below
                pass
            os.kill(worker, signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            with pytest.raises(RemoteError, match=r"mission_crashed.*starts again"):
                nursery.start_soon(kill)
                await client.call("", "echo", "echo_later", 1, 30.0, timeout=20.0)
        started = time.monotonic()
        with trio.fail_after(10):
            while True:
                try:
                    assert await client.call("", "echo", "echo", 7) == 7
                    break
                except RemoteError as error:
                    assert error.kind == "mission_backoff"
                    await trio.sleep(0.02)
        print(f"the worker answers again after {time.monotonic() - started:.2f} s")
    (successor,) = node.workers()
    assert successor != worker


async def test_sigterm_ends_everything_in_order(cluster: Cluster) -> None:
    mapper_port = free_port()
    gandalf = cluster.start("gandalf", mapper_port=mapper_port)
    bilbo = cluster.start("bilbo", gandalf, mapper_port=mapper_port)
    await gandalf.wait_up("bilbo")
    await bilbo.wait_up("gandalf")
    workers = bilbo.workers()
    assert len(workers) == 2
    await wait_name(gandalf, "bilbo", there=True)
    async with gandalf.watch() as watch:
        started = time.monotonic()
        bilbo.signal(signal.SIGTERM)
        event = await watch.next()
        assert isinstance(event, NodeDown)
        assert event.reason == "stopping"
        assert bilbo.wait(3.0) == 0, bilbo.log
        took_s = time.monotonic() - started
    print(f"stopped in {took_s:.2f} s")
    assert took_s <= 3.0
    assert not wait_gone(workers, 0.0)
    assert not bilbo.socket_path.exists()
    await wait_name(gandalf, "bilbo", there=False)
    assert "Traceback" not in bilbo.log


async def wait_name(node: RealNode, name: str, *, there: bool) -> None:
    """Until the port mapper has a name, or no longer has it."""
    async with open_client(node.socket_path) as client:
        with trio.fail_after(5):
            while True:
                try:
                    found = await client.call("", "node", "names")
                except NoConnection as error:  # between the mapper that died and its heir
                    assert error.reason == "no_mapper"
                else:
                    assert isinstance(found, list)
                    if (name in {each["name"] for each in found}) is there:
                        return
                await trio.sleep(0.02)


async def test_a_killed_daemon_leaves_no_workers(cluster: Cluster) -> None:
    node = cluster.start("gandalf")
    workers = children(node.pid)
    assert len(workers) == 2
    node.signal(signal.SIGKILL)
    node.wait()
    assert not wait_gone(workers, 2.0)
    assert not any(is_running(each) for each in workers)
    node.start()  # over the socket file that the dead one left
    assert node.status()["name"] == "gandalf"


async def test_a_mapper_that_is_killed_is_followed_by_another(cluster: Cluster) -> None:
    mapper_port = free_port()
    gandalf = cluster.start("gandalf", mapper_port=mapper_port)
    bilbo = cluster.start("bilbo", mapper_port=mapper_port)
    await bilbo.wait_up("gandalf")  # found through the mapper alone
    assert gandalf.status()["mapper"] == "mapper"
    gandalf.signal(signal.SIGKILL)
    gandalf.wait()
    await wait_name(bilbo, "bilbo", there=True)
    gandalf.start()
    await gandalf.wait_up("bilbo")


# -- drupelet why


class Prepare(Protocol):
    def __call__(self, cluster: Cluster) -> tuple[str, ...]: ...


@dataclass
class Fault:
    """`prepare` breaks something and gives the arguments of `why`; asked of the node "bilbo"."""

    prepare: Prepare
    step: str | None
    reason: str
    mend: str


def unknown_name(cluster: Cluster) -> tuple[str, ...]:
    cluster.start("bilbo")
    return ("sauron",)


def mapper_down(cluster: Cluster) -> tuple[str, ...]:
    cluster.start("bilbo", mapper_port=free_port())
    return ("gandalf@127.0.0.2",)


def not_registered(cluster: Cluster) -> tuple[str, ...]:
    cluster.start("bilbo", mapper_port=free_port())
    return ("gandalf@127.0.0.1",)


def closed_port(cluster: Cluster) -> tuple[str, ...]:
    cluster.start("bilbo", peers=(f"gandalf@127.0.0.1:{free_port()}",))
    return ("gandalf",)


def no_route(cluster: Cluster) -> tuple[str, ...]:
    # TCP has no way to a multicast address, whatever routes and proxies this machine has
    cluster.start("bilbo", peers=(f"gandalf@224.0.0.1:{free_port()}",))
    return ("gandalf",)


def wrong_cookie(cluster: Cluster) -> tuple[str, ...]:
    gandalf = cluster.start("gandalf")
    cluster.start("bilbo", gandalf, cookie_file=cluster.directory / "other")
    return ("gandalf",)


def other_version(cluster: Cluster) -> tuple[str, ...]:
    gandalf = cluster.start("gandalf")
    cluster.start("bilbo", gandalf, program=VERSION_NINE)
    return ("gandalf",)


def taken_name(cluster: Cluster) -> tuple[str, ...]:
    gandalf = cluster.start("gandalf")
    cluster.start("first", gandalf, name="bilbo")
    trio_wait(gandalf, "bilbo")
    cluster.start("bilbo", gandalf)
    return ("gandalf",)


def wrong_node(cluster: Cluster) -> tuple[str, ...]:
    frodo = cluster.start("frodo")
    cluster.start("bilbo", peers=(f"gandalf@127.0.0.1:{frodo.port}",))
    return ("gandalf",)


def no_mission(cluster: Cluster) -> tuple[str, ...]:
    cluster.start("bilbo", cluster.start("gandalf"))
    return ("gandalf", "kettle")


def no_function(cluster: Cluster) -> tuple[str, ...]:
    cluster.start("bilbo", cluster.start("gandalf", missions={"kvs": ("store",)}))
    return ("gandalf", "kvs", "lookup")


def crashed_mission(cluster: Cluster) -> tuple[str, ...]:
    gandalf = cluster.add("gandalf", missions={})
    write_mission(gandalf, "import threading, os; threading.Timer(0.3, os._exit, [9]).start()")
    gandalf.start()
    cluster.start("bilbo", gandalf)
    trio.run(wait_down, gandalf)
    return ("gandalf", "kettle", "boil")


async def wait_down(node: RealNode) -> None:
    """Until its mission has crashed so often that it is left alone for a while."""
    async with open_client(node.socket_path) as client:
        with trio.fail_after(20):
            while True:
                found = await client.call("", "node", "missions")
                assert isinstance(found, list)
                (kettle,) = [each for each in found if each["name"] == "kettle"]
                if kettle["state"] == "backoff" and kettle["restarts"] >= 3:
                    return
                await trio.sleep(0.02)


def refused_mission(cluster: Cluster) -> tuple[str, ...]:
    gandalf = cluster.add("gandalf", missions={})
    write_mission(gandalf, "raise ValueError('no water')")
    gandalf.start()
    cluster.start("bilbo", gandalf)
    return ("gandalf", "kettle", "boil")


def other_code(cluster: Cluster) -> tuple[str, ...]:
    gandalf = cluster.add("gandalf", missions={})
    write_mission(gandalf, "")
    gandalf.start()
    bilbo = cluster.add("bilbo", gandalf, missions={})
    write_mission(bilbo, "# a newer one")
    bilbo.start()
    return ("gandalf", "kettle", "boil")


def nothing(cluster: Cluster) -> tuple[str, ...]:
    cluster.start("bilbo", cluster.start("gandalf"))
    return ("gandalf", "kvs", "store")


def write_mission(node: RealNode, line: str) -> None:
    node.write_config()
    file = node.directory / "kettle.py"
    file.write_text(
        "from drupelet import mission\n\n\n@mission('kettle')\ndef boil():\n"
        f"    return True\n\n\n{line}\n"
    )
    (node.directory / "missions.d" / "kettle.toml").write_text(
        f'module = "{file}"\nexports = ["boil"]\n'
    )


def trio_wait(node: RealNode, name: str) -> None:
    trio.run(node.wait_up, name)


FAULTS = {
    "unknown-name": Fault(unknown_name, "name", "no_such_node", "peers"),
    "mapper-down": Fault(mapper_down, "mapper", "no_mapper", "start drupeletd on that host"),
    "not-registered": Fault(not_registered, "mapper", "not_registered", "drupelet names 127.0.0.1"),
    "port-closed": Fault(closed_port, "port", "port_closed", "firewall"),
    "no-route": Fault(no_route, "route", "no_route", "ping 224.0.0.1"),
    "wrong-cookie": Fault(wrong_cookie, "cookie", "bad_cookie", "same cookie"),
    "version": Fault(other_version, "version", "version", "update the older"),
    "name-taken": Fault(taken_name, "member", "name_taken", "another [node] name"),
    "wrong-node": Fault(wrong_node, "member", "wrong_node", "[link] peers"),
    "no-mission": Fault(no_mission, "mission", "undef", "missions.d"),
    "no-function": Fault(no_function, "function", "undef", "exports"),
    "mission-crashed": Fault(crashed_mission, "mission", "mission_crashed", "gandalf"),
    "mission-refused": Fault(refused_mission, "mission", "mission_refused", "named above"),
    "other-code": Fault(other_code, "code", "code_differs", "newer file"),
    "nothing": Fault(nothing, None, "", ""),
}


@pytest.mark.parametrize("case", FAULTS)
def test_why_names_the_step_and_the_mend(cluster: Cluster, case: str) -> None:
    fault = FAULTS[case]
    words = fault.prepare(cluster)
    bilbo = cluster["bilbo"]
    started = time.monotonic()
    for _ in range(5):
        told = json.loads(bilbo.run("--json", "why", *words).stdout)
        if case != "mission-crashed" or told["reason"]:  # else asked in one of its short lives
            break
    print(f"{case}: {time.monotonic() - started:.2f} s: {json.dumps(told, indent=1)}")
    assert (told["step"], told["reason"]) == (fault.step, fault.reason)
    assert fault.mend in told["mend"]
    assert told["ok"] is (fault.step is None)
    if fault.step in (None, "function", "code"):
        clock = [step for step in told["steps"] if step["step"] == "clock"]
        assert clock, "people suspect the clock first: it is always shown"
        assert "does not matter" in clock[0]["detail"]
