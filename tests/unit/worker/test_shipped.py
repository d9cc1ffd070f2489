"""Code from a bundle: as if it were files, and without a trace when it does not load."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from drupelet.errors import RemoteProtocolError
from drupelet.wire.bundles import Bundle, encode_bundle
from drupelet.wire.codec import dumps
from drupelet.wire.limits import BUNDLE_BYTES_MAX
from drupelet.wire.messages.workers import Problem, WorkerOrder
from drupelet.worker import shipped
from drupelet.worker.loading import Loaded, LoadError, load
from tests.unit.worker.modules import ship, write

ONE = '@mission("m")\ndef f():\n    return 1\n'


@pytest.fixture(autouse=True)
def same_modules() -> Iterator[None]:
    """What a test imports from bundles goes with it."""
    modules, finders, path = dict(sys.modules), list(sys.meta_path), list(sys.path)
    yield
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)
    sys.meta_path[:], sys.path[:] = finders, path


def load_shipped(path: str, exports: tuple[str, ...] | None = ("f",), mission: str = "m") -> Loaded:
    return load(WorkerOrder(mission=mission, modules=("m",), exports=exports, shipped=path))


def problem_of(path: str, exports: tuple[str, ...] | None = ("f",)) -> Problem:
    before, finders = dict(sys.modules), list(sys.meta_path)
    with pytest.raises(LoadError) as caught:
        load_shipped(path, exports)
    assert sys.meta_path == finders
    assert not [name for name in set(sys.modules) - set(before) if name.startswith("zz")]
    return caught.value.problems[0]


def call(loaded: Loaded, name: str = "f", mission: str = "m") -> object:
    return loaded.missions[mission][name].function()


def test_a_bundle_serves_like_the_same_files(tmp_path: Path) -> None:
    text = ONE + '@mission("m")\nclass Oven:\n    def heat(self): return 2\n'
    from_file = load(
        WorkerOrder(mission="m", modules=(write(tmp_path, "zza", text),), exports=("f",))
    )
    loaded = load_shipped(ship(tmp_path, zza=text), None)
    assert loaded.digest == from_file.digest
    assert (call(loaded), call(loaded, "Oven.heat")) == (1, 2)
    assert loaded.modules[0].__name__ == "zza"
    assert sys.modules["zza"] is loaded.modules[0]


def test_helpers_are_imported_from_the_bundle_first(tmp_path: Path) -> None:
    write(tmp_path, "zzhelper", "VALUE = 'the file beside it'\n")
    sys.path.append(str(tmp_path))
    main = 'import zzhelper\n@mission("m")\ndef f(): return zzhelper.VALUE\n'
    path = ship(tmp_path, "zza", zza=main, zzhelper="VALUE = 'shipped'\n")
    loaded = load_shipped(path)
    assert call(loaded) == "shipped"
    assert {module.__name__ for module in loaded.modules} == {"zza", "zzhelper"}
    path = ship(tmp_path, "zza", zza=main)
    order = WorkerOrder(mission="m", modules=("m",), exports=("f",), shipped=path)
    assert call(load(order, loaded.modules)) == "the file beside it"


def test_modules_that_import_each_other_run_once(tmp_path: Path) -> None:
    one = "import zzb\nCOUNT = []\nCOUNT.append(1)\n" + ONE
    two = 'import zza\n@mission("m")\ndef g(): return zza.COUNT\n'
    loaded = load_shipped(ship(tmp_path, "zza", "zzb", zza=one, zzb=two), ("f", "g"))
    assert call(loaded, "g") == [1]


def test_nothing_stands_in_for_the_library(tmp_path: Path) -> None:
    problem = problem_of(ship(tmp_path, "zza", zza=ONE, json="VALUE = 1\n"))
    assert "stand in" in problem.message


def test_lines_of_problems(tmp_path: Path) -> None:
    assert problem_of(ship(tmp_path, zza="def f(:\n")).line == 2
    raised = problem_of(ship(tmp_path, zza="\nx = 1\n1 / 0\n"))
    assert (raised.kind, raised.line) == ("file_wont_compile", 4)
    assert raised.file.startswith("shipped/") and raised.file.endswith("/zza.py")
    assert "ZeroDivisionError" in raised.message
    inner = problem_of(ship(tmp_path, "zza", zza="import zzb\n", zzb="\nraise SystemExit(3)\n"))
    assert (inner.file.rsplit("/", 1)[1], inner.line) == ("zzb.py", 3)
    syntax = problem_of(ship(tmp_path, "zza", zza="import zzb\n", zzb="\n)\n"))
    assert (syntax.file.rsplit("/", 1)[1], syntax.line) == ("zzb.py", 3)
    missing = problem_of(ship(tmp_path, zza="import zznowhere\n"))
    assert (missing.line, missing.message) == (
        2,
        "ModuleNotFoundError: No module named 'zznowhere'",
    )
    deep = problem_of(ship(tmp_path, zza="import json\njson.loads('{')\n"))
    assert deep.line == 3
    unlisted = problem_of(ship(tmp_path, zza=ONE), ("f", "g"))
    assert unlisted.kind == "invalid_export" and "'g'" in unlisted.message


def test_a_version_that_does_not_load_leaves_the_one_before(tmp_path: Path) -> None:
    first = load_shipped(ship(tmp_path, "zza", zza="import zzb\n" + ONE, zzb="V = 1\n"))
    finders = list(sys.meta_path)
    for bad in ("1 / 0\n", "x = 1\n"):
        path = ship(tmp_path, "zza", zza="import zzb, zzc\n" + bad, zzb="V = 2\n", zzc="")
        with pytest.raises(LoadError):
            load(
                WorkerOrder(mission="m", modules=("m",), exports=("f",), shipped=path),
                first.modules,
            )
        assert {sys.modules["zza"], sys.modules["zzb"]} == set(first.modules)
        assert "zzc" not in sys.modules
        assert sys.meta_path == finders


def test_a_second_version_beside_the_first(tmp_path: Path) -> None:
    text = 'import zzb\nl = []\n@mission("m")\ndef f():\n    l.append(zzb.V)\n    return l\n'
    first = load_shipped(ship(tmp_path, "zza", zza=text, zzb="V = 1\n"))
    path = ship(tmp_path, "zza", zza=text + "#\n", zzb="V = 2\n")
    order = WorkerOrder(mission="m", modules=("m",), exports=("f",), shipped=path)
    second = load(order, first.modules)
    assert (call(first), call(second), call(first)) == ([1, 1], [2], [1, 1])
    assert sys.modules["zzb"] in second.modules
    assert sum(isinstance(each, shipped._Finder) for each in sys.meta_path) == 1


def test_a_helper_that_the_next_version_lacks_is_gone(tmp_path: Path) -> None:
    first = load_shipped(ship(tmp_path, "zza", zza="import zzb\n" + ONE, zzb="V = 1\n"))
    path = ship(tmp_path, zza="import zzb\n" + ONE)
    with pytest.raises(LoadError, match="No module named 'zzb'"):
        load(WorkerOrder(mission="m", modules=("m",), exports=("f",), shipped=path), first.modules)


def test_tracebacks_show_the_lines(tmp_path: Path) -> None:
    text = '@mission("m")\ndef f():\n    return 1 / 0  # here\n'
    loaded = load_shipped(ship(tmp_path, zza=text))
    with pytest.raises(ZeroDivisionError) as caught:
        call(loaded)
    assert "return 1 / 0  # here" in "".join(traceback.format_exception(caught.value))
    function = loaded.missions["m"]["f"].function
    assert "# here" in inspect.getsource(function)


def test_nothing_listed_is_code_to_spawn(tmp_path: Path) -> None:
    loaded = load_shipped(ship(tmp_path, zza="async def work(): pass\n"), ())
    assert loaded.missions == {"m": {}}
    assert loaded.modules[0].work is not None


def test_files_that_are_no_bundle(tmp_path: Path) -> None:
    path = tmp_path / "x.bundle"
    assert "cannot be read" in problem_of(str(path)).message
    for junk in (b"", b"\xa0", b"\xff" * 30, dumps({"content": b"\xa0"})):
        path.write_bytes(junk)
        assert problem_of(str(path)).kind == "file_wont_compile"
    path.write_bytes(bytes(BUNDLE_BYTES_MAX + 2_000))
    with pytest.raises(RemoteProtocolError, match="too long"):
        shipped.read_bundle(str(path))
    bundle = Bundle(mission="m", load=("zza",), modules={"zza": b"1"})
    path.write_bytes(dumps({"content": encode_bundle(bundle)}))
    assert shipped.read_bundle(str(path)) == bundle
