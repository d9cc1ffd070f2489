"""S001-6 and code shipping on real processes: mismatch, `nl`, old processes, kill -9, refusals."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from drupelet.client import open_client
from drupelet.client.carrier import Carrier
from drupelet.errors import (
    EXIT_FAILED,
    EXIT_NO_CONNECTION,
    EXIT_NOT_PERMITTED,
    CodeMismatch,
    NotPermitted,
    RemoteError,
)
from drupelet.process import code, receive, self, spawn
from drupelet.process.running import open_runtime
from drupelet.wire.bundles import Bundle
from drupelet.wire.limits import BUNDLE_MODULE_BYTES_MAX, BUNDLE_MODULES_MAX
from drupelet.wire.signing import sign_bundle
from tests.integration.cluster import REPOSITORY, Cluster, RealNode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

HOSTILE = json.loads((REPOSITORY / "tests" / "vectors" / "bad-inputs.json").read_text())["paths"]
KVS = """
from drupelet import Request, ask, become, mission, receive, reply, send, spawn, whereis

VERSION = {!r}

@mission("kvs")
def version():
    return VERSION

@mission("kvs")
async def start():
    await spawn(loop, name="loop")

async def loop():
    while True:
        match await receive():
            case Request(caller, "version"):
                await reply(caller, VERSION)
            case "again":
                become(loop)

@mission("kvs")
async def ask_loop():
    return await ask("loop", "version")

@mission("kvs")
async def again():
    await send("loop", "again")

@mission("kvs")
async def is_there():
    return await whereis("loop") is not None
"""
EXPORTS = ("version", "start", "ask_loop", "again", "is_there")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


def install(node: RealNode, version: str) -> Path:
    """The operator of `node` has this kvs.py."""
    folder = node.directory / "missions.d"
    folder.mkdir(parents=True, exist_ok=True)
    names = ", ".join(f'"{name}"' for name in EXPORTS)
    (folder / "kvs.toml").write_text(f'module = "kvs.py"\nexports = [{names}]\n')
    file = folder / "kvs.py"
    file.write_text(KVS.format(version))
    return file


def add(cluster: Cluster, name: str, version: str, *known: RealNode, **fields: object) -> RealNode:
    node = cluster.add(name, *known, missions={}, **fields)
    install(node, version)
    node.start()
    return node


async def pair(cluster: Cluster, one: str, two: str) -> tuple[RealNode, RealNode]:
    gandalf = add(cluster, "gandalf", one)
    bilbo = add(cluster, "bilbo", two, gandalf)
    await gandalf.wait_up("bilbo")
    return gandalf, bilbo


def digest(node: RealNode) -> str:
    """As `drupelet missions` shows it."""
    shown = json.loads(node.run("--json", "missions").stdout)
    return str(next(each["digest"] for each in shown if each["name"] == "kvs"))


async def test_s001_6(cluster: Cluster, tmp_path: Path) -> None:
    """Node 2 has an older kvs.py."""
    gandalf, bilbo = await pair(cluster, "new", "old")
    with gandalf.connect() as here, bilbo.connect() as there:
        there.call("", "kvs", "start")
        assert there.call("", "kvs", "ask_loop") == "old"
        # call -> CodeMismatch(have, want)
        with pytest.raises(CodeMismatch) as caught:
            here.call("bilbo", "kvs", "version")
        assert (caught.value.have, caught.value.want) == (digest(bilbo), digest(gandalf))
        shown = gandalf.run("call", "bilbo", "kvs", "version")
        assert shown.returncode == EXIT_FAILED
        assert "drupelet nl" in shown.stderr
        # nl kvs -> the call succeeds
        shipped = gandalf.run("nl", "kvs")
        assert (shipped.returncode, shipped.stderr) == (0, "")
        assert shipped.stdout.splitlines()[:2] == ["bilbo    loaded", "gandalf  loaded"]
        assert here.call("bilbo", "kvs", "version") == "new"
        assert digest(bilbo) == digest(gandalf) == caught.value.want
        # a process started before answers from old code until it loops
        assert there.call("", "kvs", "ask_loop") == "old"
        there.call("", "kvs", "again")
        assert there.call("", "kvs", "ask_loop") == "new"
        workers = bilbo.workers()
        # what does not load leaves the new one serving, and says where
        bad = tmp_path / "kvs.py"
        bad.write_text(KVS.format("worse") + "\nwhat is this\n")
        refused = gandalf.run("nl", str(bad))
        assert refused.returncode == EXIT_FAILED
        line = bad.read_text().splitlines().index("what is this") + 1
        assert f"kvs.py:{line}: file_wont_compile" in refused.stderr
        assert here.call("bilbo", "kvs", "version") == "new"
        assert bilbo.workers() == workers  # all of it without a restart


async def test_a_third_version_ends_processes_of_the_first(
    cluster: Cluster, tmp_path: Path
) -> None:
    gandalf, bilbo = await pair(cluster, "one", "one")
    with bilbo.connect() as there:
        there.call("", "kvs", "start")
        for version in ("two", "three"):
            assert there.call("", "kvs", "is_there") is True
            assert there.call("", "kvs", "ask_loop") == "one"
            (tmp_path / "kvs.py").write_text(KVS.format(version))
            assert gandalf.run("nl", str(tmp_path / "kvs.py")).returncode == 0
        with pytest.raises(RemoteError, match="killed|noproc"):
            there.call("", "kvs", "ask_loop")
        assert there.call("", "kvs", "is_there") is False


async def test_strangers_and_members_rights(cluster: Cluster, tmp_path: Path) -> None:
    """A non-member is refused: it has no link, and its signature counts for nothing."""
    gandalf, _ = await pair(cluster, "good", "good")
    other_cookie = tmp_path / "other-cookie"
    mallory = add(cluster, "mallory", "evil", gandalf, cookie_file=other_cookie)
    shipped = json.loads(mallory.run("--json", "nl", "kvs").stdout)
    assert set(shipped["nodes"]) == {"mallory"}
    refused = mallory.run("call", "gandalf", "code", "list")
    assert refused.returncode == EXIT_NO_CONNECTION
    bundle = Bundle(
        mission="kvs", load=("kvs",), modules={"kvs": KVS.format("evil").encode()}, sequence=99
    )
    signed = sign_bundle(bytes(32), bundle)
    with gandalf.connect() as here:
        for node in ("bilbo", "gandalf"):
            assert here.call(node, "kvs", "version") == "good"
        # A member cannot have another node ship, nor load what no member signed.
        with pytest.raises(NotPermitted):
            here.call("bilbo", "code", "ship", [["kvs", None]], None)
        with pytest.raises(NotPermitted, match="no member"):
            here.call("bilbo", "code", "load", signed.content, signed.key, signed.signature)
        with pytest.raises(NotPermitted):
            here.call("", "code", "load", signed.content, signed.key, signed.signature)
        assert here.call("bilbo", "kvs", "version") == "good"
    assert gandalf.run("call", "bilbo", "code", "ship", "[]").returncode == EXIT_NOT_PERMITTED


async def test_what_is_too_much_or_hostile(cluster: Cluster, tmp_path: Path) -> None:
    gandalf = add(cluster, "gandalf", "good")
    large = tmp_path / "large.py"
    large.write_bytes(b"#" * (BUNDLE_MODULE_BYTES_MAX + 1))
    files = [tmp_path / f"m{number}.py" for number in range(BUNDLE_MODULES_MAX + 1)]
    for number, file in enumerate(files):
        file.write_bytes(b"#" * (BUNDLE_MODULE_BYTES_MAX if number < 5 else 0))
    for words, message in (
        ([str(large)], "larger than 262144 bytes"),
        (list(map(str, files[:5])), "1310720 bytes; at most 1048576 in all"),
        (list(map(str, files)), "ship 1 to 64 modules"),
        (["nowhere"], "no mission or module 'nowhere' here"),
        ([str(tmp_path / "json.py")], "cannot be read"),
    ):
        refused = gandalf.run("nl", *words)
        assert (refused.returncode, message in refused.stderr) == (1, True), refused.stderr
    (tmp_path / "json.py").write_text("")
    assert "stand in" in gandalf.run("nl", str(tmp_path / "json.py")).stderr
    with gandalf.connect() as here:
        for name in HOSTILE:
            for hostile in (name, name.removesuffix(".py")):
                with pytest.raises(RemoteError, match="bad_bundle"):
                    here.call("", "code", "ship", [[hostile, b""]], None)
                with pytest.raises(RemoteError, match="bad_bundle"):
                    here.call("", "code", "ship", [["kvs", None], [hostile, b""]], None)
        assert here.call("", "kvs", "version") == "good"
    assert not (gandalf.state_dir / "code").exists()


SLOW = """
import contextlib, os
if os.getcwd().endswith({folder!r}):
    with contextlib.suppress(OSError):  # nobody waits for it
        os.write(os.open({fifo!r}, os.O_WRONLY | os.O_NONBLOCK), b"!")
for _ in range(300_000):
    pass
"""


def test_killed_in_the_middle_of_a_load(cluster: Cluster, tmp_path: Path) -> None:
    """kill -9 from the moment on at which the new code begins to run, to the answer: nothing that
    was acknowledged is lost, and nothing is in between."""
    gandalf, bilbo = trio.run(pair, cluster, "0", "0")
    moments = random.Random(random.randrange(2**32))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    begun = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)  # ours too: else its end is readable
    folder = str(bilbo.state_dir / "missions" / "kvs")
    file = tmp_path / "kvs.py"
    command = [
        sys.executable, "-m", "drupelet.cli.main", "--socket", str(gandalf.socket_path),
        "--json", "nl", str(file),
    ]  # fmt: skip
    kept = "0"
    outcomes: list[tuple[bool, bool]] = []
    for number in range(1, 11):
        version = str(number)
        file.write_text(SLOW.format(folder=folder, fifo=str(fifo)) + KVS.format(version))
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as shipping:
            assert shipping.stdout is not None
            assert select.select([begun], [], [], 20.0)[0]
            os.read(begun, 16)
            patience_s = {1: 20.0, 2: 0.0}.get(number, moments.uniform(0.0, 0.05))
            select.select([shipping.stdout], [], [], patience_s)
            bilbo.kill()
            answer = json.loads(shipping.stdout.read())
        acknowledged = answer["nodes"]["bilbo"]["ok"]
        bilbo.start()
        with bilbo.connect() as there:
            found = str(there.call("", "kvs", "version"))
        outcomes.append((acknowledged, found == version))
        assert found == version or (not acknowledged and found == kept)
        kept = found
        assert not list((bilbo.state_dir / "code").glob("*.next"))
        trio.run(bilbo.wait_up, "gandalf")
        trio.run(gandalf.wait_up, "bilbo")
        with contextlib.suppress(BlockingIOError):
            os.read(begun, 4_096)  # the restart ran it too
    os.close(begun)
    print(f"(acknowledged, runs after the restart): {outcomes}")
    assert outcomes[0] == (True, True)
    assert not outcomes[1][0]


async def test_shipped_code_after_restarts_and_the_operators_edit(
    cluster: Cluster, tmp_path: Path
) -> None:
    gandalf, bilbo = await pair(cluster, "old", "old")
    (tmp_path / "kvs.py").write_text(KVS.format("shipped"))
    assert gandalf.run("nl", str(tmp_path / "kvs.py")).returncode == 0
    bilbo.stop()
    bilbo.start()
    with bilbo.connect() as there:
        assert there.call("", "kvs", "version") == "shipped"
    bilbo.stop()
    install(bilbo, "edited")
    bilbo.start()
    with bilbo.connect() as there:
        assert there.call("", "kvs", "version") == "edited"
    assert "code_dropped mission=kvs" in bilbo.log
    file = bilbo.state_dir / "code" / "kvs.bundle"
    assert not file.exists()
    await bilbo.wait_up("gandalf")
    assert gandalf.run("nl", "kvs").returncode == 0
    bilbo.kill()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    bilbo.start()
    with bilbo.connect() as there:
        assert there.call("", "kvs", "version") == "edited"
    assert f"code_damaged file={file}" in bilbo.log


async def test_how_long_it_takes(cluster: Cluster) -> None:
    """Small code and the largest, to two nodes, durable on both; and how long calls wait for it."""
    gandalf, _ = await pair(cluster, "old", "old")
    filler = b"#" * (BUNDLE_MODULE_BYTES_MAX - 1) + b"\n"
    with gandalf.connect() as here:
        for name, helpers in (
            ("small", []),
            ("1 MiB", [["a", filler], ["b", filler], ["c", filler]]),
        ):
            took_s = []
            for number in range(5):
                source = KVS.format(f"{name} {number}").encode()
                started = time.monotonic()
                here.call("", "code", "ship", [["kvs", source], *helpers], None, timeout=20)
                took_s.append(time.monotonic() - started)
                assert here.call("bilbo", "kvs", "version") == f"{name} {number}"
            print(f"{name}: shipped to 2 nodes in {sorted(took_s)[2] * 1000:.0f} ms (median of 5)")
            assert sorted(took_s)[2] < 2.0


TOOLS = """
from drupelet import node, send

async def where(to):
    await send(to, ("at", node()))
"""


async def test_a_program_ships_and_spawns(cluster: Cluster, tmp_path: Path) -> None:
    """Code of no mission: nothing is exported, and members may spawn its functions."""
    gandalf, bilbo = await pair(cluster, "old", "old")
    (tmp_path / "tools.py").write_text(TOOLS)
    tools = types.ModuleType("tools")
    tools.__file__ = str(tmp_path / "tools.py")
    exec(compile(TOOLS, tools.__file__, "exec"), vars(tools))
    with trio.fail_after(30):
        async with open_client(gandalf.socket_path) as client:
            carrier = Carrier(client)
            async with open_runtime(carrier) as runtime:
                await carrier.attach(runtime)
                for which in (tools, "tools"):  # at once: its first worker on bilbo is ready
                    assert await code.nl(which) == {"gandalf": "loaded", "bilbo": "loaded"}
                    await spawn(tools.where, self(), node="bilbo")
                    assert await receive(tuple, timeout=5) == ("at", "bilbo")
    shown = json.loads(bilbo.run("--json", "missions").stdout)
    (found,) = [each for each in shown if each["name"] == "tools"]
    assert (found["exports"], found["state"]) == ([], "ready")
    refused = gandalf.run("call", "bilbo", "tools", "where", "1")
    assert refused.returncode == EXIT_FAILED and "undef" in refused.stderr
