"""`code.nl`: what is sent to the daemon, and what its answer becomes."""

from __future__ import annotations

import importlib.util
import types
from collections.abc import Sequence
from pathlib import Path

import outcome
import pytest
import trio

from drupelet.errors import NoConnection, RemoteError, RemoteProtocolError
from drupelet.process import code
from drupelet.process.current import runtime_var
from drupelet.process.runtime import Runtime


class FakeTransport:
    """A daemon that answers one thing."""

    congested = False

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, str, Sequence[object], float]] = []

    def send(self, signal: bytes) -> None: ...

    async def wait_sendable(self) -> None: ...

    async def call(
        self, node: str, mission: str, function: str, args: Sequence[object], timeout: float
    ) -> object:
        await trio.lowlevel.checkpoint()
        self.asked.append((node, mission, function, args, timeout))
        return self.answer

    async def cast(self, *_: object) -> None: ...


GOOD = {
    "mission": "kettle",
    "nodes": {
        "a": {"ok": True, "state": "loaded", "digest": "d"},
        "b": {"ok": False, "error": {"kind": "invalid_export", "message": "no boil"}},
    },
}


async def nl(transport: FakeTransport | None, *modules: types.ModuleType | str) -> object:
    async with trio.open_nursery() as nursery:
        token = runtime_var.set(Runtime(nursery, transport))
        try:
            result = await outcome.acapture(code.nl, *modules)
        finally:
            runtime_var.reset(token)
    return result.unwrap()


def module_of(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"mission_{path.stem}", path)
    assert spec is not None
    return importlib.util.module_from_spec(spec)


async def test_modules_and_names(tmp_path: Path) -> None:
    file = tmp_path / "kettle.py"
    file.write_bytes(b"x = 1\r\n")
    transport = FakeTransport(GOOD)
    found = await nl(transport, module_of(file), "pot")
    ((node, mission, function, args, timeout),) = transport.asked
    assert (node, mission, function, timeout) == ("", "code", "ship", code.TIMEOUT_S)
    assert args == ([["kettle", b"x = 1\r\n"], ["pot", None]], None)
    assert isinstance(found, dict)
    assert found["a"] == "loaded"
    assert isinstance(found["b"], RemoteError)
    assert (found["b"].kind, found["b"].message) == ("invalid_export", "no boil")


async def test_code_without_a_file_is_the_daemons(tmp_path: Path) -> None:
    shipped = types.ModuleType("kettle")
    shipped.__file__ = "shipped/1f3a2b4c/kettle.py"
    transport = FakeTransport(GOOD)
    await nl(transport, shipped, types.ModuleType("made"))
    assert transport.asked[0][3] == ([["kettle", None], ["made", None]], None)


async def test_what_cannot_be_shipped() -> None:
    with pytest.raises(NoConnection, match="alone"):
        await nl(None, "kettle")
    with pytest.raises(TypeError, match="at least one"):
        await nl(FakeTransport(GOOD))
    with pytest.raises(TypeError, match="not function"):
        await nl(FakeTransport(GOOD), nl)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [None, {}, {"nodes": []}, {"nodes": {"a": 1}}])
async def test_other_answers(answer: object) -> None:
    with pytest.raises(RemoteProtocolError):
        await nl(FakeTransport(answer), "kettle")
