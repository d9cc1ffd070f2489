"""Service `mod_name_server` for a chan server: names with values, lib_chan's own example.

    {service, nameServer, password, "ABXy45", mfa, mod_name_server, start_me_up, notUsed}.

    mm = await chan.connect("localhost", 1234, "nameServer", "ABXy45", "")
    await chan.cast(mm, ("store", "joe", "writing a book"))
    await chan.rpc(mm, ("lookup", "joe"))      # ("ok", "writing a book")
    await chan.rpc(mm, ("lookup", "jim"))      # None

Each guest has a process of its own (`start_me_up`); what they store is kept by one more, which
lives as long as the chan server's program. Every message came from somebody else: what does not fit
is passed over, and names and values are bounded (40 MB in all).
"""

from __future__ import annotations

from drupelet import NameTaken, Pid, Request, ask, receive, reply, send, spawn, whereis
from drupelet.wire.codec import dumps

KEEPER = "mod_name_server"
NAMES_MAX = 10_000
NAME_CHARS_MAX = 255
VALUE_BYTES_MAX = 4_096


async def start_me_up(mm: Pid, argument: object, extra: object) -> None:
    """Serve one guest until its chan is closed. `argument` and `extra` are not used."""
    keeper = await whereis(KEEPER) or await _start_keeper()
    while True:
        match await receive():
            case ("chan", pid, ("store", str(name), value)) if pid == mm:
                await send(keeper, ("store", name, value))
            case ("chan", pid, ("lookup", str(name))) if pid == mm:
                await send(mm, ("send", await ask(keeper, ("lookup", name))))
            case ("chan_closed", pid) if pid == mm:
                return


async def _start_keeper() -> Pid:
    try:
        return await spawn(_keep, name=KEEPER)
    except NameTaken:  # another guest came at the same moment
        return await whereis(KEEPER) or await _start_keeper()


async def _keep() -> None:
    values: dict[str, object] = {}
    while True:
        match await receive():
            case ("store", name, value):
                known = name in values
                room = known or (len(values) < NAMES_MAX and len(name) <= NAME_CHARS_MAX)
                if room and len(dumps(value)) <= VALUE_BYTES_MAX:
                    values[name] = value
            case Request(caller, ("lookup", name)):
                await reply(caller, ("ok", values[name]) if name in values else None)
