"""The tables of the house rules. A new line here needs a reason; a new import between rooms a
decision record in daemon/docs/adr/ and a change of daemon/docs/ARCHITECTURE.md.
"""

from __future__ import annotations

from dataclasses import dataclass

# -- which room of daemon/drupelet may import which (its own modules besides)

_CONFIG = {"config", "config_values", "toml_text"}
_CORE_UP = {"errors", "wire", "core", "store", "net", "services"} | _CONFIG

ROOMS: dict[str, set[str]] = {
    # names are loaded on first use
    "__init__": {"errors", "mission", "process", "net_kernel", "missions", "ladder"},
    "errors": set(),
    "lease": set(),  # by whose right code runs: process tells, worker asks
    "toml_text": {"errors"},
    "config_values": {"errors", "toml_text", "wire"},
    "config": {"errors", "toml_text", "config_values", "wire"},
    "wire": {"errors"},
    "core": {"errors", "wire"},
    "store": {"errors", "wire", "core"},
    "net": {"errors", "wire"},
    "discovery": {"errors", "wire", "core"},  # core.candidates: the bounded hand-over
    "services": _CORE_UP | {"__version__"},
    "node": _CORE_UP | {"__version__"},
    "mission": {"errors", "wire"},
    "process": {"errors", "wire", "lease"},
    "chan": {"errors", "wire", "core", "store", "net", "process"},  # a program of its own: adr/0011
    "worker": {"errors", "wire", "mission", "process", "lease", "__init__"},
    "client": {"errors", "wire", "net"},
    "net_kernel": {"errors", "client", "process"},  # joins the two: adr/0010
    # grants from a program, by its runtime or a client: adr/0015
    "missions": {"errors", "wire", "client", "process"},
    # a program of its own, on another machine: adr/0016; its identity, systemd: adr/0019
    "relay": {"errors", "wire", "core", "store", "net", "toml_text", "config_values"},
    "simulator": {"errors", "wire", "core"},
    # several nodes in one trio loop, for programs: adr/0013
    "ladder": {"errors", "wire", "core", "process", "mission"},
    "cli": _CORE_UP
    | {"node", "client", "simulator", "ladder", "process", "chan", "mission", "__version__"}
    | {"__init__"},  # the shell offers every public name
}

# -- which libraries a room may import besides the standard library

LIBRARIES: dict[str, set[str]] = {
    "wire": {"cbor2", "nacl"},
    "store": {"nacl"},  # Argon2id
    "net": {"trio", "wsproto"},  # wsproto: relay_socket, when a relay is configured
    "discovery": {"zeroconf", "ifaddr"},  # the only place for zeroconf: it meets strangers' packets
    "services": {"trio", "outcome", "psutil"},
    "node": {"trio"},
    "process": {"trio", "outcome"},
    "chan": {"trio"},
    "worker": {"trio", "outcome"},
    "client": {"trio", "outcome"},
    "net_kernel": {"trio"},
    "ladder": {"trio", "outcome"},
    "relay": {
        "trio",
        "starlette",
        "hypercorn",
        "wsproto",
        "http_message_signatures",  # adr/0020
        "cryptography",
        "h11",  # Hypercorn's own; the client's half of it: adr/0019
    },  # the only place for HTTP so far: an extra
    "cli": {"trio", "segno"},
}

# -- sans-IO rooms: bytes, now and entropy are arguments, so nothing else of the library is needed

SANS_IO = ("wire", "core", "simulator")
_PURE = """
    __future__ abc base64 binascii bisect collections contextlib copy dataclasses datetime enum
    functools hashlib heapq hmac ipaddress itertools math operator re string struct types typing
    uuid zlib
"""
SANS_IO_STDLIB = set(_PURE.split())
SANS_IO_STDLIB_EXTRA: dict[str, set[str]] = {
    "wire": {"json"},  # bodies of calls over HTTP: adr/0020
    # a program of its own, with seeded generators; it prints nothing but its verdict
    "simulator": {"argparse", "json", "logging", "random", "sys", "time", "traceback"},
}

# -- siblings in core: one noun each; what a noun may know of another

CORE_SIBLINGS: dict[str, set[str]] = {
    "addresses": {"backoff", "candidates"},
    "connection": {"effects"},
    "members": {"effects"},
    "clones": {"members"},
    "membership": {"addresses", "candidates", "clones", "effects", "members"},
    "missions": {"backoff"},
    "calls": {"effects"},
    "portmap": {"effects"},
    "admission": {"effects"},
    "guests": {"admission"},
    "grants": {"buckets", "holdings"},
    "relay": {"buckets"},
    "revocations": {"grants"},
    "http_calls": {"asked", "requests"},
    "relay_choice": {"backoff"},
    "relay_peers": {"relay"},
    "requests": {"asked", "freshness", "grants", "once"},
    "processes": {"lines", "signals"},
    "proxies": {"holdings"},
    "signals": {"lines"},
}

# -- sizes

MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
SIZE_EXCEPTIONS: dict[str, str] = {  # "folder/", "path" or "path:function" -> why
    "tests/bench/peers/": "the other systems' programs, kept as they were first measured",
}

# -- modules without a twin test, and rooms that are tested as a whole elsewhere

TWIN_EXCEPTIONS: dict[str, str] = {
    "discovery/main.py": "argument parsing and process set-up; tests/unit/discovery/test_process.py"
    " runs it as a process",
    "services/directory.py": "protocols only; tests/unit/services/test_calls.py has one of each",
    "wire/limits.py": "numbers only; each is tested at its maximum where it is used",
}

# -- numbers that bound what a peer sends live in wire/limits.py

# A message's field has its bound beside it; limits.py has what buffers, tables and waits share.
MAXIMA_EXEMPT = ("daemon/drupelet/wire/messages/",)
MAXIMA_EXCEPTIONS: dict[str, str] = {
    "wire/ids.py:NUMBER_MAX": "the range of a type, not a bound that could be another",
    "wire/frames.py:KIND_MAX": "the range of a type, not a bound that could be another",
    "wire/refusals.py:INT_MAX": "the range of a type, not a bound that could be another",
    "wire/sodium.py:COUNTER_MAX": "the range of a type, not a bound that could be another",
    "wire/handshake.py:PSKS_MAX": "a rule of the protocol: the new cookie and the old one",
}

# -- calls and imports with a better way


@dataclass(frozen=True, slots=True, kw_only=True)
class Ban:
    """`name` (dotted; ``x.*`` for all of a module) is not used in `where`, save in `but`."""

    name: str
    instead: str
    where: tuple[str, ...] = ("daemon/drupelet/",)
    but: tuple[str, ...] = ()


_SANS = tuple(f"daemon/drupelet/{room}/" for room in ("wire", "core"))
_QUIET = tuple(f"daemon/drupelet/{room}/" for room in ("wire", "core", "store", "net"))
_ALL = ("daemon/", "tests/")
_CLI = ("daemon/drupelet/cli/",)
_PROGRAMS = (  # their own verdict, and the owner's verbs
    "daemon/drupelet/simulator/",
    "daemon/drupelet/discovery/main.py",
    "daemon/drupelet/relay/main.py",
)

# Everything there runs on a MockClock that jumps: a sleep is the passing of time that is tested.
_VIRTUAL = (
    "tests/unit/process/",
    "tests/unit/ladder/",
    "tests/unit/cli/lessons/",
    "tests/sim/process_",
)

BANS: tuple[Ban, ...] = (
    Ban(name="print", instead="logging; only cli prints", but=(*_CLI, *_PROGRAMS)),
    Ban(name="input", instead="the command line's arguments", but=_CLI),
    Ban(name="trio.serve_tcp", instead="net/listener.py: one handler's error ends serve_tcp"),
    Ban(name="trio.serve_listeners", instead="net/listener.py: an error ends serve_listeners"),
    Ban(
        name="time.sleep",
        instead="an event, a deadline, or a bounded wait on the thing itself",
        where=("daemon/", "tests/unit/", "tests/sim/", "tests/integration/"),
        but=("daemon/drupelet/discovery/main.py",),  # a blocking program's pause between tries
    ),
    Ban(name="datetime.datetime.now", instead="the argument `now`", where=_SANS),
    Ban(name="datetime.datetime.utcnow", instead="the argument `now`", where=_ALL),
    Ban(name="datetime.datetime.today", instead="the argument `now`", where=_SANS),
    Ban(name="time.*", instead="the argument `now`", where=_SANS),
    Ban(name="random.*", instead="an argument: bytes, or a generator", where=_SANS),
    Ban(name="secrets.*", instead="an argument: bytes", where=_SANS),
    Ban(name="os.urandom", instead="an argument: bytes", where=_SANS),
    Ban(name="uuid.uuid1", instead="an argument", where=_SANS),
    Ban(name="uuid.uuid4", instead="an argument", where=_SANS),
    Ban(name="nacl.utils.random", instead="an argument: bytes", where=_SANS),
    Ban(name="os.fork", instead="subprocess: the daemon has threads and keys", where=_ALL),
    Ban(name="multiprocessing.*", instead="subprocess: it forks", where=_ALL),
    Ban(
        name="pickle.*",
        instead="wire/codec.py: unpickling runs code",
        where=_ALL,
        but=("tests/unit/store/test_identity.py",),  # shows that a key refuses to be pickled
    ),
    Ban(name="marshal.*", instead="wire/codec.py", where=_ALL),
    Ban(name="shelve.*", instead="store/", where=_ALL),
    Ban(
        name="eval",
        instead="the codec or json; code runs in workers only",
        but=("daemon/drupelet/worker/", "daemon/drupelet/cli/shell.py"),
    ),
    Ban(
        name="exec",
        instead="code runs in workers only",
        but=("daemon/drupelet/worker/", "daemon/drupelet/cli/shell.py"),
    ),
    Ban(name="os.system", instead="trio.run_process with a list", where=_ALL),
    Ban(name="os.popen", instead="trio.run_process with a list", where=_ALL),
    Ban(
        name="socket.getaddrinfo",
        instead="trio.socket.getaddrinfo",
        but=("daemon/drupelet/client/", "daemon/drupelet/net/"),  # net: with AI_NUMERICHOST
    ),
    Ban(name="socket.gethostbyname", instead="trio.socket.getaddrinfo"),
    Ban(
        name="asyncio.*",
        instead="trio",
        but=("daemon/drupelet/discovery/", "daemon/drupelet/worker/"),
    ),
    Ban(
        name="threading.Thread",
        instead="trio.to_thread.run_sync with a limiter",
        but=(
            "daemon/drupelet/client/",
            "daemon/drupelet/cli/shell.py",
            "daemon/drupelet/process/child.py",  # a program without a trio loop
        ),
    ),
    Ban(
        name="trio.sleep",
        instead="trio.testing.wait_all_tasks_blocked, an Event, or autojump_clock",
        where=("tests/unit/", "tests/sim/"),
        but=_VIRTUAL,
    ),
)
QUIET_ROOMS = _QUIET
LOUD_LEVELS = {"info", "warning", "warn", "error", "critical", "exception"}

# -- the top of the repository

TOP_LEVEL = {
    "daemon",
    "systemd",
    "image",
    "config",
    "tests",
    "Makefile",
    "README.md",
    "pyproject.toml",
    "LICENSE",
    "CHANGELOG.md",
}
