"""The bundled service: what guests store, and what does not fit."""

from __future__ import annotations

import trio
import trio.testing

from drupelet import chan
from drupelet.bundled import mod_name_server
from drupelet.process import flush, processes, receive, self, send, spawn, whereis
from drupelet.process.running import open_runtime
from tests.unit.chan.links import reason_of
from tests.unit.chan.serving import serving


async def test_names_there_and_none() -> None:
    async with serving() as (_, port):
        mm = await chan.connect("127.0.0.1", port, "nameServer", "ABXy45", "")
        await chan.cast(mm, ("store", "joe", "writing a book"))
        await chan.cast(mm, ("store", "joe", ["another", 1]))
        assert await chan.rpc(mm, ("lookup", "joe")) == ("ok", ["another", 1])
        assert await chan.rpc(mm, ("lookup", "jim")) is None


async def test_what_does_not_fit_is_passed_over() -> None:
    async with open_runtime():
        mm = self()
        pid = await spawn(mod_name_server.start_me_up, mm, "", "notUsed")
        for value in (None, "lookup", ("lookup", 1), ("store", "a"), ("stop",), ["lookup", "a", 1]):
            await send(pid, ("chan", mm, value))
        await send(pid, ("chan", pid, ("lookup", "not from this chan")))
        await send(pid, ("chan", mm, ("lookup", "a")))
        assert await receive(timeout=5) == ("send", None)
        await send(pid, ("chan_closed", mm))
        assert await reason_of(pid) in ("normal", "noproc")
        assert await flush() == []


async def test_two_first_guests_share_one_keeper() -> None:
    async with open_runtime():
        for _ in range(2):
            await spawn(mod_name_server.start_me_up, self(), "", "notUsed")
        await trio.testing.wait_all_tasks_blocked()
        keepers = [each for each in await processes() if "_keep" in str(each["function"])]
        assert len([each for each in keepers if each["status"] == "receive"]) == 1
        assert await whereis(mod_name_server.KEEPER) is not None


async def test_names_at_the_maximum_and_one_above() -> None:
    async with open_runtime():
        mm = self()
        pid = await spawn(mod_name_server.start_me_up, mm, "", "notUsed")
        longest = "n" * mod_name_server.NAME_CHARS_MAX

        async def store(name: str, value: object) -> None:
            await send(pid, ("chan", mm, ("store", name, value)))

        async def lookup(name: str) -> object:
            await send(pid, ("chan", mm, ("lookup", name)))
            _, value = await receive(timeout=5)
            return value

        await store(longest, 1)
        await store(longest + "n", 1)
        assert [await lookup(longest), await lookup(longest + "n")] == [("ok", 1), None]
        largest = bytes(mod_name_server.VALUE_BYTES_MAX - 3)
        await store(longest, largest)
        await store(longest, largest + b"1")
        assert await lookup(longest) == ("ok", largest)
        for number in range(mod_name_server.NAMES_MAX - 1):
            await store(str(number), number)
        await store("one more", 1)
        await store(longest, 2)
        assert await lookup("one more") is None
        assert await lookup(longest) == ("ok", 2)
        assert await lookup(str(mod_name_server.NAMES_MAX - 2)) is not None
