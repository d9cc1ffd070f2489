"""``chan CONF``: a chan server in the foreground, a program of its own.

It has no keys and no link to the daemon, so that a bug in a service that strangers talk to reaches
neither. A conf that cannot be used ends it with exit code 78 and the line.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from drupelet.cli import output
from drupelet.cli.grammar import Request
from drupelet.cli.output import Failed
from drupelet.errors import EXIT_DONE

if TYPE_CHECKING:
    from drupelet.chan import Conf


def chan(request: Request) -> int:
    """``chan CONF``."""
    from drupelet.chan import read_conf
    from drupelet.cli.daemon import start_log
    from drupelet.process import run

    conf = read_conf(request.argument(0))
    start_log("info", terse=True)
    run(_serve, conf)
    return EXIT_DONE


async def _serve(conf: Conf) -> None:
    """Until SIGTERM. Raises: `ConfigError`, `Failed`."""
    import trio

    from drupelet.chan import port, start_server, stop_server
    from drupelet.process import Down, monitor, receive

    server = await start_server(conf)
    names = ", ".join(service.name for service in conf.services)
    where = ", ".join(conf.listen)
    output.line(
        f"chan: serving {output.plain(names, None)} on port {await port(server)} of {where}"
    )
    output.line("Ctrl-C stops it.")
    monitor(server)
    ended: list[object] = []
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            down = await receive(Down)
            ended.append(down.reason)
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                nursery.cancel_scope.cancel()
    if ended:
        raise Failed(f"the server ended: {ended[0]!r:.200}", mend="its log has the reason")
    await stop_server(server)
