"""`drupelet-discovery`: the mDNS process.

Decides the order of the start: close what was inherited, import, connect, confine, and only then
hear the first packet. Started by the daemon with its socket as standard input (development), or by
systemd with `--socket PATH` (production), where it connects to the daemon.

asyncio imports ssl when it can; this process never speaks TLS, and without it is 4 MB smaller.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
import time
from typing import Final

from drupelet.discovery import confinement
from drupelet.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE

CONNECT_TRIES_MAX: Final = 30
CONNECT_PAUSE_S: Final = 1.0  # 30 s in all, then systemd starts us again


def main(arguments: list[str] | None = None) -> int:
    """Run until the daemon goes. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="drupelet-discovery",
        description="Finds other nodes on the local network by mDNS, for drupeletd.",
    )
    parser.add_argument(
        "--socket", metavar="PATH", help="connect to the daemon there; default: standard input"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="drupelet-discovery: %(message)s")
    logging.getLogger("zeroconf").setLevel(logging.CRITICAL)  # floods must not fill the journal
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal is for the daemon; we follow
    confinement.close_inherited()
    confinement.set_name(b"drupelet-mdns")
    try:
        to_daemon = _connect(options.socket) if options.socket else _standard_input()
    except OSError as error:
        print(f"drupelet-discovery: {error}", file=sys.stderr)
        return EXIT_FAILED if options.socket else EXIT_USAGE
    with to_daemon:
        return _serve(to_daemon, is_child=not options.socket)


def _serve(to_daemon: socket.socket, *, is_child: bool) -> int:
    if "ssl" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # "import ssl" raises ImportError
    import asyncio

    from drupelet.discovery.process import DaemonChannel, DiscoveryProcess
    from drupelet.discovery.responder import GatedLoop

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, GatedLoop)
        await DiscoveryProcess(DaemonChannel(to_daemon), loop).run()

    confinement.confine()
    if is_child:
        confinement.die_with_parent()
    try:
        with asyncio.Runner(loop_factory=GatedLoop) as runner:
            runner.run(serve())
    except OSError as error:
        logging.getLogger("drupelet.discovery").warning("%s, ending", error)
        return EXIT_FAILED
    return EXIT_DONE


def _standard_input() -> socket.socket:
    try:
        return socket.socket(fileno=0)
    except OSError:
        raise OSError(
            "standard input is no socket; drupeletd starts this, or use --socket"
        ) from None


def _connect(path: str) -> socket.socket:
    for tries_left in range(CONNECT_TRIES_MAX - 1, -1, -1):
        to_daemon = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            to_daemon.connect(path)
        except OSError as error:
            to_daemon.close()
            if not tries_left:
                raise OSError(f"no daemon at {path}: {error.strerror}; start drupeletd") from None
            time.sleep(CONNECT_PAUSE_S)
        else:
            return to_daemon
    raise AssertionError("unreachable")
