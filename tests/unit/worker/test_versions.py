"""New code in a running worker: what changes at once, what stays, and what has to go."""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import RemoteError
from drupelet.process.gen_server import GenServer
from drupelet.process.running import open_runtime
from drupelet.process.runtime import Runtime
from drupelet.wire.bundles import content_of_kept, decode_bundle
from drupelet.wire.messages.workers import (
    WorkerFailure,
    WorkerHello,
    WorkerOrder,
    decode_hello,
)
from drupelet.worker.loading import load, shipped_digest
from drupelet.worker.versions import LOAD_TARGET, Versions
from tests.unit.worker.modules import ship, write
from tests.unit.worker.test_shipped import same_modules  # noqa: F401  a fixture

TEXT = """
VERSION = {0}

@mission("m")
def f():
    return VERSION

@mission("m")
class Oven:
    def heat(self):
        return VERSION

    @classmethod
    def made(cls):
        return cls()

class Bare:
    pass

async def work():
    pass
"""


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """`load` freezes what is there; the rest of the tests need not."""
    yield
    gc.unfreeze()


class Worker:
    """A mission `m` of a file, as a worker has it."""

    def __init__(self, directory: Path, exports: str | None = "f Oven.heat") -> None:
        self.directory = directory
        names = None if exports is None else tuple(exports.split())
        path = write(directory, "zza", TEXT.format(1))
        order = WorkerOrder(mission="m", modules=(path,), exports=names)
        self.versions = Versions(order, load(order))

    def target(self, name: str) -> Any:
        return self.versions.table[name.encode()]

    def call(self, name: str = "m/f") -> object:
        return self.target(name).function()

    def load(self, version: int, text: str = "") -> WorkerHello | WorkerFailure:
        path = ship(self.directory, zza=text or TEXT.format(version))
        bundle = decode_bundle(content_of_kept(Path(path).read_bytes()))
        load = self.versions.table[LOAD_TARGET].function
        return decode_hello(load(path, shipped_digest(bundle)))  # type: ignore[arg-type]

    def thing(self, name: str) -> Any:
        """A function or class of the current code."""
        return vars(sys.modules[self.versions.current.modules[0].__name__])[name]


def test_new_calls_get_the_new_functions(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    old, table = worker.target("m/f"), worker.versions.table
    hello = worker.load(2)
    assert isinstance(hello, WorkerHello)
    assert hello.digest == worker.versions.current.digest
    assert [entry.name for entry in hello.missions["m"]] == ["f", "Oven.heat"]
    assert (worker.call(), worker.call("m/Oven.heat"), old.function()) == (2, 2, 1)
    assert worker.versions.table is table
    assert set(table) == {b"m/f", b"m/Oven.heat", LOAD_TARGET}


def test_the_same_code_again_changes_nothing(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    worker.load(2)
    target, modules = worker.target("m/f"), worker.versions.current.modules
    assert isinstance(worker.load(2), WorkerHello)
    assert worker.target("m/f") is target
    assert worker.versions.current.modules is modules


@pytest.mark.parametrize("text", ["1 / 0", "def f(:", "x = 1", TEXT.format(3) + "\nf = 7\n"])
def test_what_does_not_load_changes_nothing(tmp_path: Path, text: str) -> None:
    worker = Worker(tmp_path)
    worker.load(2)
    before = dict(worker.versions.table)
    failure = worker.load(3, text)
    assert isinstance(failure, WorkerFailure)
    assert failure.problems[0].file.endswith("zza.py")
    assert worker.versions.table == before
    assert worker.versions.newest(worker.thing("work")) is worker.thing("work")
    assert worker.load(4) and worker.call() == 4


def test_all_that_is_marked_when_nothing_is_listed(tmp_path: Path) -> None:
    worker = Worker(tmp_path, None)
    worker.load(2, '@mission("other")\ndef g(): return 5\n')
    assert set(worker.versions.table) == {b"other/g", LOAD_TARGET}
    assert worker.call("other/g") == 5


@pytest.mark.parametrize("args", [("", b""), (1, b""), ("x", "y")])
def test_other_arguments_are_refused(tmp_path: Path, args: tuple[Any, Any]) -> None:
    with pytest.raises(RemoteError, match="badarg"):
        Worker(tmp_path).versions.load(*args)


def test_the_newest_of_functions_and_classes(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    versions = worker.versions
    old = {name: worker.thing(name) for name in ("f", "Oven", "Bare", "work")}
    assert all(versions.newest(thing) is thing for thing in old.values())
    worker.load(2)
    worker.load(3)
    worker.load(4)  # the first is forgotten, and yet known
    for name in ("f", "Oven", "work"):
        assert versions.newest(old[name]) is worker.thing(name)
        assert versions.newest(worker.thing(name)) is worker.thing(name)
    assert versions.newest(old["Oven"].heat) is worker.thing("Oven").heat
    for other in (old["Bare"], len, Path, 7, None, old["Oven"]().heat, functools.partial(old["f"])):
        assert versions.newest(other) is other


def test_what_the_newest_code_lacks_stays(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    old = {name: worker.thing(name) for name in ("f", "Oven", "work")}
    worker.load(2, '@mission("m")\nclass Oven:\n    def heat(self): return 2\nwork = 3\n' + _F)
    assert worker.versions.newest(old["work"]) is old["work"]
    worker.load(3, TEXT.format(3) + "\ndef Oven2(): pass\nwork = Oven2\n")
    assert worker.versions.newest(old["work"]).__name__ == "Oven2"
    worker.load(4, TEXT.format(4) + "\nclass work:\n    pass\n")
    assert worker.versions.newest(old["work"]) is old["work"]  # a class is no function


_F = '@mission("m")\ndef f(): return 2\n'


def test_which_version_something_is_of(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    version_of = worker.versions.version_of
    old, made = worker.thing("f"), worker.thing("Oven").made
    worker.load(2)

    @functools.wraps(old)
    def decorated() -> object:
        return old()

    assert [version_of(each) for each in (old, made, decorated)] == [1, 1, 1]
    assert version_of(functools.partial(made, 1)) == 1
    assert version_of(worker.thing("Oven")) == 0
    assert [version_of(each) for each in (len, Path, 7, "text", worker.thing("Bare"))] == [None] * 5


async def test_a_third_version_ends_the_processes_of_the_first(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    worker = Worker(tmp_path)
    async with trio.open_nursery() as nursery:
        runtime = Runtime(nursery)
        worker.versions.attach(runtime)

        def loop_of(version: int) -> Callable[[], object]:
            text = TEXT.format(version) + "\nimport trio\nasync def work(): await trio.sleep(99)\n"
            worker.load(version, text)
            work: Callable[[], object] = worker.thing("work")
            return work

        first = runtime.start(loop_of(2), ())
        second = runtime.start(loop_of(3), ())
        other = runtime.start(trio.sleep, (99,))
        await trio.testing.wait_all_tasks_blocked()
        assert first.alive and second.alive
        worker.load(3, "def broken(:")
        assert first.alive
        third = runtime.start(loop_of(4), ())
        assert (first.exiting, first.exit_reason) == (True, "killed")
        await trio.testing.wait_all_tasks_blocked()
        assert [each.alive for each in (first, second, third, other)] == [False, True, True, True]
        assert runtime.newest(first.function) is worker.thing("work")
        nursery.cancel_scope.cancel()


def test_old_code_is_collected(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    gc.freeze()  # as `main.serve` does
    gone = weakref.ref(worker.target("m/f").function)
    worker.load(2)
    worker.load(3)
    assert gone() is None


COUNTER = """
from drupelet import GenServer

class Counter(GenServer):
    def init(self):
        self.count = 0
        self.changes = []

    def add(self):
        self.count += {0}
        return self.count

    def changed(self):
        return self.changes

    def code_change(self, former):
        self.changes.append("{0}")
"""


async def test_a_server_goes_over_at_its_next_message(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """With its state; also one that slept through several versions."""
    worker = Worker(tmp_path)
    async with open_runtime() as runtime:
        worker.versions.attach(runtime)
        worker.load(2, TEXT.format(2) + COUNTER.format(1))
        cls = worker.thing("Counter")
        busy, idle = await cls.start(), await cls.start()
        assert await GenServer.call(busy, "add") == 1
        for number, step in ((3, 10), (4, 100)):
            worker.load(number, TEXT.format(number) + COUNTER.format(step))
            await GenServer.call(busy, "add")
        assert await GenServer.call(busy, "add") == 211
        assert await GenServer.call(busy, "changed") == ["10", "100"]
        assert await GenServer.call(idle, "add") == 100
        assert await GenServer.call(idle, "changed") == ["100"]
