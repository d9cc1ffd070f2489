"""S001-2: the gandalf and bilbo session gives on two of our nodes what it gives on two of Erlang's.

Each step is asked of bilbo, in both worlds, and its outcome put into one form: ``True``, tuples,
``None`` for undefined, ``"undef"`` and ``"nodedown"`` for the failures, ``"pong"`` and ``"pang"``,
lists of names without host. Ours is a client of a real `drupeletd`; Erlang's bilbo reads
expressions from its standard input and prints their values, with an `epmd` of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
import trio

from drupelet.client import NodeDown
from drupelet.client.blocking import BlockingClient
from drupelet.errors import NoConnection, RemoteError
from tests.integration.cluster import Cluster, RealNode, free_port

pytestmark = [pytest.mark.erlang, pytest.mark.slow]
needs_erlang = pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("erl", "erlc", "epmd")),
    reason="needs `erl`, `erlc` and `epmd` of Erlang/OTP (Debian: erlang-base)",
)

START_S = 20.0  # an Erlang node starts in 0.5 s here and in about 5 s on a busy Pi
ANSWER_S = 10.0
SOURCE = Path(__file__).parent / "erlang" / "kvs.erl"

Outcome = object

EXPECTED: list[tuple[str, Outcome]] = [
    ("nodes before", []),
    ("ping of a node that is not there", "pang"),
    ("call of a node that is not there", "nodedown"),
    # gandalf starts
    ("ping", "pong"),
    ("nodes", ["gandalf"]),
    ("store", True),
    ("lookup", ("ok", "fine")),
    ("lookup of a missing key", None),
    ("store again", True),
    ("lookup again", ("ok", "stormy")),
    ("undefined function", "undef"),
    ("undefined module", "undef"),
    ("unknown node", "nodedown"),
    ("ping of an unknown node", "pang"),
    # gandalf is killed
    ("told of its end", ("nodedown", "gandalf")),
    ("nodes after", []),
    ("call after", "nodedown"),
    ("ping after", "pang"),
]


class World(Protocol):
    """Two nodes, gandalf and bilbo; what is asked is asked of bilbo."""

    def start_gandalf(self) -> None: ...

    def kill_gandalf(self) -> None: ...

    def ping(self, node: str) -> Outcome: ...

    def nodes(self) -> Outcome: ...

    def call(self, node: str, module: str, function: str, *words: str) -> Outcome: ...

    def monitor(self) -> None: ...

    def told(self) -> Outcome: ...


def session(world: World) -> Iterator[tuple[str, Outcome]]:
    """The steps of EXPECTED."""
    yield "nodes before", world.nodes()
    yield "ping of a node that is not there", world.ping("gandalf")
    lookup = ("kvs", "lookup", "weather")
    yield "call of a node that is not there", world.call("gandalf", *lookup)
    world.start_gandalf()
    yield "ping", world.ping("gandalf")
    yield "nodes", world.nodes()
    yield "store", world.call("gandalf", "kvs", "store", "weather", "fine")
    yield "lookup", world.call("gandalf", *lookup)
    yield "lookup of a missing key", world.call("gandalf", "kvs", "lookup", "dragons")
    yield "store again", world.call("gandalf", "kvs", "store", "weather", "stormy")
    yield "lookup again", world.call("gandalf", *lookup)
    yield "undefined function", world.call("gandalf", "kvs", "forget", "weather")
    yield "undefined module", world.call("gandalf", "palantir", "look")
    yield "unknown node", world.call("sauron", *lookup)
    yield "ping of an unknown node", world.ping("sauron")
    world.monitor()
    world.kill_gandalf()
    yield "told of its end", world.told()
    yield "nodes after", world.nodes()
    yield "call after", world.call("gandalf", *lookup)
    yield "ping after", world.ping("gandalf")


# -- ours


class Ours:
    """Two real `drupeletd`."""

    def __init__(self, cluster: Cluster) -> None:
        self.gandalf = cluster.add("gandalf")
        self.bilbo: RealNode = cluster.start("bilbo", self.gandalf)
        self.client = self.bilbo.connect()

    def close(self) -> None:
        self.client.close()

    def start_gandalf(self) -> None:
        """Ours link by themselves, soon; Erlang's when somebody asks."""
        self.gandalf.start()
        trio.run(self.bilbo.wait_up, "gandalf")
        with self.gandalf.connect() as client:  # a worker is there a moment after its node
            give_up = time.monotonic() + START_S
            while (answer := self._ask(client, "gandalf", "kvs", "lookup", "")) is not None:
                assert time.monotonic() < give_up, answer

    def kill_gandalf(self) -> None:
        self.gandalf.signal(signal.SIGKILL)
        self.gandalf.wait()

    def ping(self, node: str) -> Outcome:
        return "pong" if self.client.ping(node)["ok"] else "pang"

    def nodes(self) -> Outcome:
        return [str(each["name"]) for each in self.client.nodes() if each["state"] == "up"]

    def call(self, node: str, module: str, function: str, *words: str) -> Outcome:
        return self._ask(self.client, node, module, function, *words)

    @staticmethod
    def _ask(client: BlockingClient, *words: str) -> Outcome:
        node, module, function, *arguments = words
        try:
            return client.call(node, module, function, *arguments)
        except RemoteError as error:
            return error.kind
        except NoConnection:
            return "nodedown"

    def monitor(self) -> None:
        self.watcher = self.bilbo.connect()
        self.events = self.watcher.monitor_nodes()
        self.watcher.nodes()  # answered after the events were asked for: none is missed from here

    def told(self) -> Outcome:
        with contextlib.closing(self.watcher):
            for event in self.events:
                if isinstance(event, NodeDown):
                    return "nodedown", event.name
        return "silence"


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Ours]:
    with Cluster(tmp_path) as cluster:
        world = Ours(cluster)
        with contextlib.closing(world):
            yield world


# -- Erlang's

LOOP = """
Loop = fun(Loop) ->
    case io:get_line("") of
        eof -> halt();
        Line ->
            {ok, Tokens, _} = erl_scan:string(Line),
            {ok, Expressions} = erl_parse:parse_exprs(Tokens),
            {value, Value, _} = erl_eval:exprs(Expressions, []),
            io:format("~0p~n", [Value]),
            Loop(Loop)
    end
end, Loop(Loop).
"""


class Erlangs:
    """Two real Erlang nodes and an `epmd`, on ports of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        port = str(free_port())
        cookie = directory / ".erlang.cookie"
        cookie.write_text("OTPORACLE")
        cookie.chmod(0o400)
        self.environment = os.environ | {"HOME": str(directory), "ERL_EPMD_PORT": port}
        subprocess.run(["erlc", "-o", directory, SOURCE], check=True, timeout=START_S)
        self.processes: list[subprocess.Popen[bytes]] = []
        self._start(["epmd", "-address", "127.0.0.1", "-port", port])
        self.bilbo = self._node("bilbo", LOOP)
        self.gandalf: subprocess.Popen[bytes] | None = None
        assert self.evaluate("node()") == "bilbo@localhost"

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.directory,
            env=self.environment,
        )
        self.processes.append(process)
        return process

    def _node(self, name: str, expressions: str) -> subprocess.Popen[bytes]:
        options = ["-noshell", "-start_epmd", "false", "-sname", f"{name}@localhost"]
        listen = ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
        return self._start(["erl", *options, *listen, "-eval", " ".join(expressions.split())])

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.communicate()

    @staticmethod
    def _line(process: subprocess.Popen[bytes], timeout_s: float) -> str:
        """One line; the node writes nothing unasked, so no more than one waits in the buffer."""
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], timeout_s)
        assert readable, "Erlang does not answer"
        return process.stdout.readline().decode().rstrip("\n")

    def evaluate(self, expression: str) -> str:
        """The value of an expression in bilbo's one process, as text."""
        assert self.bilbo.stdin is not None
        self.bilbo.stdin.write(f"{expression}.\n".encode())
        self.bilbo.stdin.flush()
        return self._line(self.bilbo, START_S)

    def start_gandalf(self) -> None:
        self.gandalf = self._node("gandalf", 'kvs:start(), io:format("ready~n").')
        assert self._line(self.gandalf, START_S) == "ready"

    def kill_gandalf(self) -> None:
        assert self.gandalf is not None
        self.gandalf.kill()
        self.gandalf.wait()

    def ping(self, node: str) -> Outcome:
        return self.evaluate(f"net_adm:ping({node}@localhost)")

    def nodes(self) -> Outcome:
        return re.findall(r"(\w+)@localhost", self.evaluate("nodes()"))

    def call(self, node: str, module: str, function: str, *words: str) -> Outcome:
        target = f"{node}@localhost, {module}, {function}, [{', '.join(words)}]"
        return outcome_of(self.evaluate(f"rpc:call({target})"))

    def monitor(self) -> None:
        assert self.evaluate("monitor_node(gandalf@localhost, true)") == "true"

    def told(self) -> Outcome:
        told = self.evaluate(f"receive Any -> Any after {int(ANSWER_S * 1000)} -> silence end")
        return outcome_of(told.replace("@localhost", ""))


def outcome_of(term: str) -> Outcome:
    """An Erlang term in the form of ours."""
    if term.startswith("{badrpc,{'EXIT',{undef,"):
        return "undef"
    if term == "{badrpc,nodedown}":
        return "nodedown"
    if pair := re.fullmatch(r"\{(\w+),(\w+)\}", term):
        return pair.groups()
    return {"true": True, "undefined": None}.get(term, term)


@pytest.fixture
def erlangs(tmp_path: Path) -> Iterator[Erlangs]:
    directory = tmp_path / "erlang"
    directory.mkdir()
    world = Erlangs(directory)
    with contextlib.closing(world):
        yield world


# -- the comparison


def test_ours_gives_the_transcript(ours: Ours) -> None:
    assert list(session(ours)) == EXPECTED


@needs_erlang
def test_every_step_is_as_in_otp(ours: Ours, erlangs: Erlangs) -> None:
    steps = 0
    for theirs, mine in zip(session(erlangs), session(ours), strict=True):
        print(f"{theirs[0]:34} {theirs[1]!r}")
        assert mine == theirs
        steps += 1
    assert steps == len(EXPECTED)


@needs_erlang
def test_otp_gives_the_transcript(erlangs: Erlangs) -> None:
    assert list(session(erlangs)) == EXPECTED
