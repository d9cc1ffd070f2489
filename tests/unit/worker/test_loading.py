"""S004-5, first half: four bad modules and three good ones, and the rest of the load checks."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drupelet.errors import RemoteError
from drupelet.wire.messages.workers import EXPORTS_MAX, PROBLEMS_MAX, decode_hello, encode_hello
from drupelet.worker.arguments import complaint
from drupelet.worker.loading import SOURCE_BYTES_MAX, LoadError, module_path
from drupelet.worker.targets import IN_THREAD
from tests.unit.worker.modules import load_order, problems_of, write

MARK = '@mission("m")\n'


@pytest.fixture(autouse=True)
def modules_forgotten() -> Iterator[None]:
    """A worker loads one mission and ends; here they follow each other."""
    modules, path = dict(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.path[:] = path


# -- S004-5: the four bad ones


def test_a_file_that_does_not_compile(tmp_path: Path) -> None:
    path = write(tmp_path, "bad1", "x = 1\ndef boil(:\n")
    (problem,) = problems_of(path, exports="boil")
    assert (problem.kind, problem.file, problem.line) == ("file_wont_compile", path, 3)


def test_an_export_that_is_missing_or_not_public(tmp_path: Path) -> None:
    path = write(tmp_path, "bad2", f"{MARK}def boil(): ...\n{MARK}def _hidden(): ...\n")
    problems = problems_of(path, exports="boill _hidden __import__ a.b-c")
    assert [problem.kind for problem in problems] == ["invalid_export"] * 4
    assert {problem.file for problem in problems} == {path}  # what is not there has no line
    assert "did you mean 'boil'?" in problems[0].message
    assert "not public" in problems[1].message


def test_three_bad_signatures_are_told_at_once(tmp_path: Path) -> None:
    text = (
        f"{MARK}def one(*args): ...\n{MARK}def two(**more): ...\n"
        f"{MARK}def three(a: 'NoSuchType'): ...\n"
    )
    path = write(tmp_path, "bad3", text)
    problems = problems_of(path, exports="one two three")
    assert [problem.kind for problem in problems] == ["invalid_fn_and_arity"] * 3
    assert [problem.line for problem in problems] == [2, 4, 6]


def test_a_function_that_is_listed_but_not_marked(tmp_path: Path) -> None:
    path = write(tmp_path, "bad4", f"{MARK}def boil(): ...\n\ndef secret(): ...\n")
    (problem,) = problems_of(path, exports="boil secret")
    assert (problem.kind, problem.line) == ("function_not_exported", 5)
    assert '@mission("m")' in problem.message


def test_a_class_that_is_no_behaviour_does_not_become_one(tmp_path: Path) -> None:
    text = (
        f"{MARK}class Oven:\n    def init(self): ...\n    def handle_info(self, message): ...\n"
        "    def heat(self): ...\n"
    )
    path = write(tmp_path, "bad7", text)
    (problem,) = problems_of(path, exports="Oven.handle_info Oven.heat")
    assert (problem.kind, problem.line) == ("invalid_export", 3)
    loaded = load_order(path, exports="Oven.heat")
    assert (loaded.servers, loaded.missions["m"]["Oven.heat"].server) == ({}, "")


# -- S004-5: the three good ones


def test_three_good_modules_merge_into_one_mission(tmp_path: Path) -> None:
    one = write(tmp_path, "good1", f"{MARK}def boil(litres: float) -> str: return 'hot'\n")
    two = write(tmp_path, "good2", f"{MARK}async def wait(): ...\n")
    three = write(tmp_path, "good3", f"{MARK}class Oven:\n    def heat(self, t: int): return t\n")
    loaded = load_order(one, two, three, exports="boil wait Oven.heat")
    assert set(loaded.table()) == {b"m/boil", b"m/wait", b"m/Oven.heat"}
    assert loaded.missions["m"]["Oven.heat"].function(7) == 7
    sources = b"".join(Path(path).read_bytes() for path in (one, two, three))
    assert loaded.digest == hashlib.blake2b(sources, digest_size=16).digest()
    assert decode_hello(encode_hello(loaded.hello())) == loaded.hello()


# -- the rest


def test_marked_but_not_listed_is_not_served(tmp_path: Path) -> None:
    path = write(tmp_path, "shy", f"{MARK}def a(): ...\n{MARK}def b(): ...\n")
    assert set(load_order(path, exports="a").table()) == {b"m/a"}


def test_what_runs_once_is_told(tmp_path: Path) -> None:
    text = '@mission("m", once=True)\ndef pay(): ...\n'
    text += '@mission("m", once=True)\nclass Till:\n    def take(self): ...\n'
    path = write(tmp_path, "paid", f"{text}{MARK}def look(): ...\n")
    loaded = load_order(path, exports="pay Till.take look")
    told = {entry.name: entry.once for entry in loaded.hello().missions["m"]}
    assert told == {"pay": True, "Till.take": True, "look": False}
    assert decode_hello(encode_hello(loaded.hello())) == loaded.hello()


def test_without_a_list_all_that_is_marked_is_served(tmp_path: Path) -> None:
    text = f"{MARK}def a(): ...\n"
    text += '@mission("n")\nclass C:\n    def f(self): ...\n    def _g(self): ...\n'
    path = write(tmp_path, "all", text + "def c(): ...\n")
    assert set(load_order(path, exports=None, mission="").table()) == {b"m/a", b"n/C.f"}


def test_a_class_keeps_its_state_and_hides_its_callbacks(tmp_path: Path) -> None:
    text = (
        '@mission("m", where="thread")\nclass Oven:\n    limit = 300\n'
        "    def __init__(self): self.t = 20\n"
        "    def heat(self, t): self.t = t\n    def read(self): return self.t\n"
        "    @cast\n    def cool(self): ...\n"
        "    def init(self): ...\n    def handle_info(self, m): ...\n"
        "    def handle_continue(self): ...\n    def terminate(self): ...\n"
    )
    path = write(tmp_path, "oven", text)
    loaded = load_order(path, exports="Oven.heat Oven.read Oven.cool")
    targets = loaded.missions["m"]
    targets["Oven.heat"].function(99)
    assert targets["Oven.read"].function() == 99
    assert targets["Oven.cool"].is_cast
    assert targets["Oven.read"].how == IN_THREAD
    assert targets["Oven.read"].owner is targets["Oven.heat"].owner
    names = "Oven.init Oven.handle_info Oven.handle_continue Oven.terminate"
    for problem in problems_of(path, exports=f"{names} Oven Oven.limit Oven.x Oven.heat.im_func"):
        assert problem.kind == "invalid_export"
        assert problem.line
    everything = load_order(path, exports=None, mission="")
    assert set(everything.missions["m"]) == {"Oven.heat", "Oven.read", "Oven.cool"}


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("import no_such_module_here\n", 2, "ModuleNotFoundError"),
        ("x = 1\ndef f():\n    1 / 0\nf()\n", 4, "ZeroDivisionError"),
        ("raise SystemExit(3)\n", 2, "SystemExit"),
        ('@mission("a b")\ndef f(): ...\n', 2, "no mission name"),
        ("@mission\ndef f(): ...\n", 2, "write the mission's name"),
        (f"{MARK}class C:\n    def __init__(self):\n        1 / 0\n    def f(self): 0\n", 5, "C()"),
    ],
)
def test_code_that_raises_while_it_loads(tmp_path: Path, text: str, line: int, word: str) -> None:
    path = write(tmp_path, "raises", text)
    (problem,) = problems_of(path, exports="C.f")
    assert (problem.kind, problem.line) == ("file_wont_compile", line)
    assert word in problem.message


def test_a_file_that_is_not_there_or_no_text_or_too_large(tmp_path: Path) -> None:
    null = tmp_path / "null.py"
    null.write_bytes(b"x = '\0'\n")
    large = tmp_path / "large.py"
    large.write_bytes(b"#" * (SOURCE_BYTES_MAX + 1))
    just = tmp_path / "just.py"
    just.write_bytes(b"#" * SOURCE_BYTES_MAX)
    for path in (str(tmp_path / "none.py"), str(tmp_path), str(null), str(large), "no_bundled"):
        (problem,) = problems_of(path, exports="f")
        assert problem.kind == "file_wont_compile"
    (problem,) = problems_of(str(just), exports="f")
    assert problem.kind == "invalid_export"


def test_names_that_clash_or_are_no_functions(tmp_path: Path) -> None:
    one = write(tmp_path, "clash1", f"{MARK}def f(): ...\nlimit = 3\n{MARK}def g(): ...\n")
    two = write(tmp_path, "clash2", f"{MARK}def f(): ...\n@mission('other')\ndef h(): ...\n")
    f, limit, g, h = problems_of(one, two, exports="f limit g.x h")
    assert "marked twice" in f.message
    assert "int and no function" in limit.message
    assert "is a function" in g.message
    assert (h.kind, "other" in h.message) == ("function_not_exported", True)


def test_the_same_function_in_two_modules_is_no_clash(tmp_path: Path) -> None:
    write(tmp_path, "shared_helper", f"{MARK}def f(): return 1\n")
    one = write(tmp_path, "user1", "from shared_helper import f\n")
    two = write(tmp_path, "user2", "from shared_helper import f\n")
    assert set(load_order(one, two, exports="f").table()) == {b"m/f"}


def test_nothing_marked_and_too_much_marked(tmp_path: Path) -> None:
    nothing = write(tmp_path, "nothing", "def f(): ...\n")
    (problem,) = problems_of(nothing, exports=None, mission="")
    assert "nothing is marked" in problem.message
    text = "".join(f"{MARK}def f{n}(): ...\n" for n in range(EXPORTS_MAX))
    assert len(load_order(write(tmp_path, "many", text), exports=None).table()) == EXPORTS_MAX
    more = write(tmp_path, "more", text + f"{MARK}def g(): ...\n")
    (problem,) = problems_of(more, exports=None)
    assert "at most 256" in problem.message


def test_more_problems_than_fit_are_cut(tmp_path: Path) -> None:
    path = write(tmp_path, "worst", "")
    exports = " ".join(f"f{n}" for n in range(PROBLEMS_MAX + 8))
    with pytest.raises(LoadError) as caught:
        load_order(path, exports=exports)
    assert len(caught.value.hello().problems) == PROBLEMS_MAX
    decode_hello(encode_hello(caught.value.hello()))


def test_a_module_does_not_replace_one_of_the_library(tmp_path: Path) -> None:
    path = write(tmp_path, "json", f"{MARK}def f(): ...\n")
    import json

    load_order(path, exports="f")
    assert sys.modules["json"] is json


@pytest.mark.parametrize(("name", "exports"), [("kvs", "store lookup"), ("echo", "echo")])
def test_the_bundled_missions_load(name: str, exports: str) -> None:
    assert load_order(name, exports=exports, mission=name).table()
    assert Path(module_path(name)).is_file()


def test_kvs_is_seed_001s() -> None:
    loaded = load_order("kvs", exports="store lookup", mission="kvs")
    assert set(loaded.table()) == {b"kvs/store", b"kvs/lookup"}
    assert list(loaded.servers) == ["kvs.Kvs"]
    assert set(load_order("kvs", exports=None, mission="").table()) == set(loaded.table())


# -- GenServers

OVEN = """
from drupelet import GenServer
@mission("m")
class Oven(GenServer):
    def init(self): self.degrees = 20
    def heat(self, degrees: int) -> int: return degrees
    @cast
    def cool(self): self.degrees = 20
    def terminate(self, reason): ...
    def handle_call(self, request, caller): ...
"""


def test_the_verbs_of_a_server_are_exports_and_its_callbacks_never(tmp_path: Path) -> None:
    path = write(tmp_path, "oven", OVEN)
    loaded = load_order(path, exports=None)
    assert list(loaded.missions["m"]) == ["Oven.cool", "Oven.heat"]
    heat, cool = loaded.missions["m"]["Oven.heat"], loaded.missions["m"]["Oven.cool"]
    assert (heat.server, heat.arity_min, heat.arity_max, heat.is_cast) == ("m.Oven", 1, 1, False)
    assert heat.shown == "Oven.heat(degrees: int) -> int"
    assert cool.is_cast
    assert loaded.needs_processes
    assert list(loaded.servers) == ["m.Oven"]
    with pytest.raises(RemoteError, match="mission_backoff"):
        heat.function(1)  # its process does not run
    for name in ("init", "terminate", "handle_call", "start_link", "call", "_stop_self", "nothing"):
        (problem,) = problems_of(path, exports=f"Oven.{name}")
        assert problem.kind == "invalid_export", name


def test_a_server_that_no_worker_could_start(tmp_path: Path) -> None:
    text = OVEN.replace("def init(self)", "def init(self, degrees)")
    (problem,) = problems_of(write(tmp_path, "oven1", text), exports="Oven.heat")
    assert (problem.kind, problem.line) == ("invalid_fn_and_arity", 5)
    assert "Oven.init(degrees): the worker starts it without arguments" in problem.message
    text = OVEN.replace('@mission("m")', '@mission("m", where="thread")')
    (problem,) = problems_of(write(tmp_path, "oven2", text), exports="Oven.heat")
    assert (problem.kind, problem.line) == ("invalid_export", 5)
    text = OVEN.replace("degrees: int) -> int", "*degrees) -> int")
    (problem,) = problems_of(write(tmp_path, "oven3", text), exports="Oven.heat")
    assert (problem.kind, problem.line) == ("invalid_fn_and_arity", 7)


def test_which_servers_run(tmp_path: Path) -> None:
    pot = '@mission("n")\nclass Pot(GenServer): ...\nclass Lid(Pot): ...\nOther = Pot\n'
    path = write(tmp_path, "ovens", f"{OVEN}\n{pot}")
    assert set(load_order(path, exports="Oven.heat").servers) == {"m.Oven"}
    assert set(load_order(path, exports=None, mission="").servers) == {"m.Oven", "n.Pot"}
    plain = load_order(path, exports="")  # nothing is listed: members spawn its functions
    assert not plain.needs_processes
    assert plain.servers == plain.starts == {}


def test_functions_marked_at_start(tmp_path: Path) -> None:
    text = f"from drupelet import at_start\n@at_start\ndef open_shelf(): ...\n{MARK}def f(): ...\n"
    loaded = load_order(write(tmp_path, "shelf", text), exports="f")
    assert list(loaded.starts) == ["shelf.open_shelf"]
    assert list(loaded.missions["m"]) == ["f"]  # marked for no mission: nobody can call it
    text = text.replace("shelf()", "shelf(size)")
    (problem,) = problems_of(write(tmp_path, "shelf2", text), exports="f")
    assert (problem.kind, problem.line) == ("invalid_fn_and_arity", 3)


# -- a class without its name


def test_a_class_whose_methods_need_no_prefix(tmp_path: Path) -> None:
    bare = OVEN.replace('@mission("m")', '@mission("m", prefix=False)')
    for text in (bare, bare.replace("(GenServer)", "")):
        path = write(tmp_path, "bare", text)
        loaded = load_order(path, exports="heat cool")
        assert set(loaded.missions["m"]) == {"heat", "cool"}
        assert set(load_order(path, exports=None).missions["m"]) >= {"heat", "cool"}
        (problem,) = problems_of(path, exports="heet")
        assert "did you mean 'heat'?" in problem.message
        (problem,) = problems_of(path, exports="init")
        assert problem.kind == "invalid_export"


@pytest.mark.parametrize(
    "other",
    [
        f"{MARK}def heat(): ...",
        '@mission("m", prefix=False)\nclass Pot:\n    def heat(self): ...',
    ],
)
def test_a_method_and_something_else_of_one_name(other: str, tmp_path: Path) -> None:
    text = f'@mission("m", prefix=False)\nclass Oven:\n    def heat(self): ...\n{other}\n'
    path = write(tmp_path, "twice", text)
    for exports in ("heat", None):
        (problem,) = problems_of(path, exports=exports)
        assert problem.kind == "invalid_export"
        assert "'heat' is there twice" in problem.message
        assert f"{path}:3" in problem.message


def test_arguments_have_limits(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom typing import Annotated\n"
        "from drupelet import GenServer, Length, Range, mission\n"
        "Litres = Annotated[float, Range(0.1, 5)]\n"
        f"{MARK}def boil(litres: Litres, lid: bool = True) -> str: ...\n"
        f"{MARK}class Oven(GenServer):\n"
        "    def heat(self, to: Annotated[int, Range(20, 250)]): ...\n"
        f"{MARK}class Pot:\n    def name(self, text: Annotated[str, Length(1, 9)]): ...\n"
    )
    path = tmp_path / "limits.py"
    path.write_text(text)
    targets = load_order(str(path), exports="boil Oven.heat Pot.name").missions["m"]
    for name, args, told in (
        ("boil", [5], ""),
        ("boil", [0.5, False], ""),
        ("boil", [7], "boil(litres): 7 is more than 5"),
        ("boil", [1, "x"], "boil(lid): 'x' is no bool"),
        ("Oven.heat", [250], ""),
        ("Oven.heat", [251], "Oven.heat(to): 251 is more than 250"),
        ("Pot.name", ["x" * 9], ""),
        ("Pot.name", [""], "Pot.name(text): 0 characters, at least 1"),
    ):
        assert complaint(name, targets[name].checks, args) == told
    assert targets["boil"].shown == "boil(litres: Litres, lid: bool = True) -> str"


def test_limits_that_cannot_be_meant_do_not_load(tmp_path: Path) -> None:
    text = (
        "from typing import Annotated\nfrom drupelet import Length, Range\n"
        f"{MARK}def one(a: Annotated[str, Range(1, 5)]): ...\n"
        f"{MARK}def two(a: int, b: 'Annotated[str, Length(5, 1)]'): ...\n"
    )
    path = write(tmp_path, "bad5", text)
    problems = problems_of(path, exports="one two")
    assert [(each.kind, each.line) for each in problems] == [
        ("invalid_fn_and_arity", 4), ("invalid_fn_and_arity", 6)
    ]  # fmt: skip
    assert "one: argument a: Range(1, 5) is for int and float, not for str" in problems[0].message
    assert "Length(5, 1) is empty" in problems[1].message
    path = write(tmp_path, "bad6", "from drupelet import Range\nLITRES = Range(5, 1)\n")
    (problem,) = problems_of(path, exports="one")
    assert (problem.kind, problem.line) == ("file_wont_compile", 3)
