"""kvs: seed 001's example, as a process."""

from __future__ import annotations

import pytest

from drupelet.bundled import kvs
from drupelet.bundled.kvs import Kvs
from drupelet.errors import RemoteError
from drupelet.process import is_process_alive
from drupelet.process.gen_server import GenServer
from drupelet.process.running import open_runtime


async def test_what_was_stored_is_found() -> None:
    async with open_runtime():
        pid = await Kvs.start()
        assert await GenServer.call(pid, "store", "weather", "fine") is True
        assert await GenServer.call(pid, "lookup", "weather") == ("ok", "fine")
        assert await GenServer.call(pid, "lookup", "missing") is None
        assert await GenServer.call(pid, "store", "nothing", None) is True
        assert await GenServer.call(pid, "lookup", "nothing") == ("ok", None)


async def test_at_most_so_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvs, "KEYS_MAX", 2)
    async with open_runtime():
        pid = await Kvs.start()
        for key in ("a", 1):
            assert await GenServer.call(pid, "store", key, 1)
        with pytest.raises(RemoteError, match="full: the store holds 2 keys"):
            await GenServer.call(pid, "store", "b", 1)
        assert await GenServer.call(pid, "store", "a", 2)  # no new key
        assert await GenServer.call(pid, "lookup", "a") == ("ok", 2)


@pytest.mark.parametrize("key", [[], {}, None, b"weather", ("a", []), 1.5])
async def test_a_bad_key_is_refused_and_nothing_is_lost(key: object) -> None:
    async with open_runtime():
        pid = await Kvs.start()
        await GenServer.call(pid, "store", "weather", "fine")
        for verb, *more in (("lookup",), ("store", 1)):
            with pytest.raises(RemoteError, match="badarg: a key is a text or a number"):
                await GenServer.call(pid, verb, key, *more)
        assert await GenServer.call(pid, "lookup", "weather") == ("ok", "fine")
        assert is_process_alive(pid)
