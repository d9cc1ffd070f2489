"""Services behind a password, for guests from anywhere: Joe Armstrong's lib_chan. See docs/CHAN.md.

from drupelet import chan

mm = await chan.connect("localhost", 1234, "nameServer", "ABXy45", "")
await chan.cast(mm, ("store", "joe", "writing a book"))
await chan.rpc(mm, ("lookup", "joe"))               # ("ok", "writing a book")
"""

from drupelet.chan.client import cast, close, connect, rpc
from drupelet.chan.conf import Conf, Service, parse_conf, read_conf
from drupelet.chan.server import port, start_server, stop_server
from drupelet.errors import AuthFail, BadService

__all__ = [
    "AuthFail",
    "BadService",
    "Conf",
    "Service",
    "cast",
    "close",
    "connect",
    "parse_conf",
    "port",
    "read_conf",
    "rpc",
    "start_server",
    "stop_server",
]
