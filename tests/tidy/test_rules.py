"""Every house rule finds a planted breach, and leaves alone what is right."""

from __future__ import annotations

import pytest

from tests.tidy import rules, tables

WIRE = "daemon/drupelet/wire/planted.py"
CORE = "daemon/drupelet/core/planted.py"
NET = "daemon/drupelet/net/planted.py"
SERVICES = "daemon/drupelet/services/planted.py"
CLI = "daemon/drupelet/cli/planted.py"
TEST = "tests/unit/core/test_planted.py"


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        (WIRE, "import drupelet.core.calls", "wire may not import core"),
        (WIRE, "from drupelet.core import calls", "wire may not import core"),
        (WIRE, "from drupelet import node", "wire may not import node"),
        (WIRE, "import drupelet", "wire may not import __init__"),
        (WIRE, "from drupelet import mission", "wire may not import mission"),
        (WIRE, "from ..core import calls", "relative import"),
        (WIRE, "import trio", "may not import the library trio"),
        (WIRE, "import os", "sans-IO and may not import os"),
        (WIRE, "def f():\n    from socket import socket", "sans-IO and may not import socket"),
        (CORE, "import random", "sans-IO and may not import random"),
        (CORE, "import logging", "sans-IO and may not import logging"),
        (CORE, "import cbor2", "may not import the library cbor2"),
        (CORE, "from drupelet.core import calls", "core.planted may not know core.calls"),
        (NET, "from drupelet.core import calls", "net may not import core"),
        (NET, "import zeroconf", "may not import the library zeroconf"),
        ("daemon/drupelet/worker/x.py", "from drupelet.services import calls", "worker may not"),
        ("daemon/drupelet/mission.py", "from drupelet.net import channel", "mission may not"),
        ("daemon/drupelet/unknown.py", "", "is not in ROOMS"),
        ("daemon/drupelet/config.py", "import tomlkit", "may not import the library tomlkit"),
    ],
)
def test_layers_breached(path: str, text: str, words: str) -> None:
    found = rules.layers(path, text)
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (WIRE, "import struct\nimport cbor2\nfrom drupelet.errors import RemoteProtocolError"),
        (WIRE, "from drupelet.wire import ids"),
        ("daemon/drupelet/core/membership.py", "from drupelet.core import effects"),
        (SERVICES, "import os\nimport trio\nfrom drupelet.core import calls"),
        (CLI, "from drupelet.node import run_node\nfrom drupelet import __version__"),
        ("daemon/drupelet/worker/x.py", "import drupelet"),
    ],
)
def test_layers_kept(path: str, text: str) -> None:
    assert rules.layers(path, text) == []


def test_sizes_at_the_ceiling_and_one_above() -> None:
    fits = "x = 1\n" * tables.MODULE_LINES_MAX
    assert rules.sizes("a.py", fits, {}) == []
    assert "601 lines" in rules.sizes("a.py", fits + "x = 1\n", {})[0]
    assert rules.sizes("a.py", fits + "x = 1\n", {"a.py": "reason"}) == []
    for head in ("def f():\n", "async def f():\n", "class C:\n  def f(self):\n"):
        body = "    x = 1\n" * (tables.FUNCTION_LINES_MAX - 1)
        assert rules.sizes("a.py", head + body, {}) == []
        longer = head + body + "    x = 1\n"
        assert "f has 71 lines" in rules.sizes("a.py", longer, {})[0]
        assert rules.sizes("a.py", longer, {"a.py:f": "reason"}) == []
        assert rules.sizes("a/b.py", longer, {"a/": "reason"}) == []


def test_twins_missing_and_misplaced() -> None:
    path = "daemon/drupelet/wire/messages/links.py"
    assert rules.twins([path], {"tests/unit/wire/messages/test_links.py"}, {}) == []
    for tests in (set(), {"tests/unit/wire/test_links.py"}, {"tests/unit/test_links.py"}):
        assert (
            "has no twin tests/unit/wire/messages/test_links.py"
            in rules.twins([path], tests, {})[0]
        )
    assert rules.twins([path], set(), {"wire/messages/links.py": "reason"}) == []
    assert rules.twins(["daemon/drupelet/node.py"], {"tests/unit/test_node.py"}, {}) == []
    assert rules.twins(["daemon/drupelet/wire/__init__.py"], set(), {}) == []


def test_logic_in_a_package_file() -> None:
    assert rules.hollow("a/__init__.py", "def f():\n    return 1\n") == []
    assert "named module" in rules.hollow("a/__init__.py", "def f():\n" + "    x = 1\n" * 20)[0]


def test_maxima_outside_limits() -> None:
    for text in ("A_MAX = 5", "A_MAX: Final = 5 * 1024", "A_BYTES_MAX: int = 2**16"):
        assert "belongs in wire/limits.py" in rules.maxima(WIRE, text, {})[0]
    for text in ("A_MAX = limits.X + 1", "A_BYTES = 16", "A_MAX: int", "def f():\n    A_MAX = 3"):
        assert rules.maxima(WIRE, text, {}) == []
    assert rules.maxima(WIRE, "_A_MAX = 5", {}) == []  # how it works inside, no bound for a peer
    assert rules.maxima("daemon/drupelet/wire/messages/links.py", "A_MAX = 5", {}) == []
    assert rules.maxima(WIRE, "A_MAX = 5", {"wire/planted.py:A_MAX": "reason"}) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (SERVICES, "print('x')"),
        (SERVICES, "import trio\ntrio.serve_tcp(f, 1)"),
        (SERVICES, "from trio import serve_tcp as s"),
        (SERVICES, "import time\ntime.sleep(1)"),
        (TEST, "import time as t\nt.sleep(1)"),
        (WIRE, "import datetime\ndatetime.datetime.now()"),
        (CORE, "from datetime import datetime\ndatetime.now()"),
        (CORE, "import time"),
        (WIRE, "from random import Random"),
        (WIRE, "import secrets"),
        (WIRE, "import nacl.utils\nnacl.utils.random(32)"),
        (SERVICES, "import os\nos.fork()"),
        (SERVICES, "import pickle"),
        (TEST, "from pickle import loads"),
        (SERVICES, "eval('1')"),
        (SERVICES, "exec('x = 1')"),
        (SERVICES, "import os\nos.system('ls')"),
        (SERVICES, "import asyncio"),
        (SERVICES, "import threading\nthreading.Thread(target=f)"),
        (TEST, "import trio\nasync def test_x():\n    await trio.sleep(1)"),
    ],
)
def test_banned_found_with_the_replacement(path: str, text: str) -> None:
    found = rules.banned(path, text)
    assert found
    assert all("; instead: " in each for each in found)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (CLI, "print('x')"),
        (SERVICES, "import time\ntime.monotonic()"),
        (SERVICES, "import random, secrets\nsecrets.token_bytes(3)"),
        ("daemon/drupelet/worker/loading.py", "exec('x = 1')"),
        (SERVICES, "model.eval()\nself.print()"),
        (SERVICES, "import trio\nasync def f():\n    await trio.sleep(1)"),
        (TEST, "import trio\nasync def test_x(autojump_clock):\n    await trio.sleep(1)"),
        (WIRE, "from datetime import datetime, UTC\ndatetime.fromtimestamp(0, UTC)"),
    ],
)
def test_what_is_not_banned(path: str, text: str) -> None:
    assert rules.banned(path, text) == []


def test_swallowed_cancellation() -> None:
    for kind in (
        "except BaseException:",
        "except:",
        "except trio.Cancelled:",
        "except (A, BaseException):",
    ):
        assert rules.swallowed("a.py", f"try:\n    f()\n{kind}\n    pass") != []
        assert rules.swallowed("a.py", f"try:\n    f()\n{kind}\n    g()\n    raise") == []
    assert rules.swallowed("a.py", "try:\n    f()\nexcept Exception:\n    pass") == []


def test_loud_rooms() -> None:
    for call in ("_log.info('x')", "logging.warning('x')", "logger.exception('x')"):
        assert "nothing above DEBUG" in rules.loud(NET, call)[0]
        assert rules.loud(SERVICES, call) == []
    assert rules.loud(NET, "_log.debug('x')\nself.error('x')") == []


def test_machine_paths() -> None:
    for place in ("/wor" + "k/main", "cd ../sha" + "red", "/opt/py" + "pi/simple"):
        assert "names a place of one machine" in rules.machine_paths("a.md", f"x\n{place}\n")[0]
    assert rules.machine_paths("a.md", "/etc/drupelet and ./work\n") == []


def test_layout_of_the_top() -> None:
    assert rules.layout(["daemon/x.py", ".ci/run", "README.md", "tests/a/b.py"]) == []
    assert rules.layout(["src/x.py", "notes.txt", "README.md"]) == [
        "notes.txt: not a place at the top level; see README.md",
        "src: not a place at the top level; see README.md",
    ]


def test_commands_in_documents() -> None:
    for language in ("sh", "bash", "shell"):
        block = f"text\n\n```{language}\nmake run\n```\n"
        assert "a.md:3: commands that no test runs" in rules.unrun_commands("a.md", block)[0]
        excused = block.replace("\n\n```", "\n\n<!-- not run: needs a Pi -->\n```")
        assert rules.unrun_commands("a.md", excused) == []
    assert rules.unrun_commands("a.md", "```console\n$ make run\n```\n```toml\na = 1\n```\n") == []
