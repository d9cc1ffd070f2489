from __future__ import annotations

import inspect
from types import CodeType, FunctionType, ModuleType

import pytest
import trio

from drupelet.cli import awaiting
from drupelet.cli.awaiting import compile_line, make_compiler


async def double(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return 2 * number


class Server:
    @classmethod
    async def start(cls) -> None: ...

    async def call(self) -> None: ...


MODULE = ModuleType("rpc")
MODULE.call = double  # type: ignore[attr-defined]


def make_names() -> dict[str, object]:
    names: dict[str, object] = {"double": double, "Server": Server, "rpc": MODULE}
    return names | {"seen": [], awaiting.SETTLE: awaiting.settle}


async def run(source: str, names: dict[str, object]) -> None:
    code = compile_line(source, make_compiler(), names)
    assert code is not None
    value = FunctionType(code, names)()
    if inspect.iscoroutine(value):
        await value


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("x = double(4)", 8),
        ("x = await double(4)", 8),
        ("x = double(double(await double(1)))", 8),
        ("x = await len('abcd') * 2", 8),  # harmless
        ("x = await 8", 8),
        ("x = sum([double(each) for each in range(3)] + [double(1)])", 8),
        ("x = {each: double(each) for each in (4,)}[4]", 8),
        ("x = double(number=4) if double(0) == 0 else 1", 8),
        ("x = max(double(n) for n in ()) if 0 else f'{double(4)}'", "8"),
        ("for x in [double(4)]:\n    pass\n", 8),
        ("if (x := double(4)):\n    pass\n", 8),
        ("x = (lambda: double(4))()", 8),
        ("async with trio.open_nursery() as nursery:\n    x = double(4)\n", 8),
        ("rpc.call(1); x = rpc.call(4)", 8),
    ],
)
async def test_a_call_on_the_line_itself_is_awaited(source: str, result: object) -> None:
    names = make_names() | {"trio": trio}
    await run(source, names)
    assert names["x"] == result


async def test_functions_are_left_as_they_were_typed() -> None:
    names = make_names()
    await run("async def f():\n    return await double(4)\n", names)
    await run("def g(h=double):\n    return h(3)\n", names)
    await run(
        "class C:\n    x = len('abc')\n    async def f(self): return await double(1)\n", names
    )
    await run("x = [f(), g(), C.x, C().f()]", names)
    assert names["x"] == [8, 6, 3, 2]
    await run("coroutines = list(double(each) for each in (1,))", names)  # a generator's are not
    (coroutine,) = names["coroutines"]  # type: ignore[misc]
    assert await coroutine == 2  # type: ignore[has-type]


@pytest.mark.parametrize(
    ("source", "line", "mend"),
    [
        ("async def f():\n    double(1)\n", 2, "write `await double(...)`"),
        ("async def f():\n    return double(1)\n", 2, "write `await double(...)`"),
        ("async def f():\n    x = [double(n) for n in y]\n", 2, "`await double(...)`"),
        ("async def f():\n    await double(double(1))\n", 2, "`await double(...)`"),
        ("def f():\n    double(1)\n", 2, "and `async def f`"),
        ("def f():\n    return double(double(1))\n", 2, "and `async def f`"),
        ("async def f():\n    match rpc.call(1):\n        case 2: pass\n", 2, "rpc.call(...)`"),
        (
            "class A:\n    async def f(self):\n        Server.start()\n",
            3,
            "`await Server.start(...)`",
        ),
        ("if 1:\n    async def f(x):\n        await x(); double(1)\n", 3, "`await double(...)`"),
    ],
)
def test_a_forgotten_await_in_a_function_is_told(source: str, line: int, mend: str) -> None:
    with pytest.raises(SyntaxError) as raised:
        compile_line(source, make_compiler(), make_names())
    assert mend in str(raised.value.msg)
    assert raised.value.lineno == line
    assert raised.value.text in source.splitlines()


@pytest.mark.parametrize(
    "source",
    [
        "async def f():\n    await double(1)\n",
        "def f():\n    return double(1)\n",  # hands the coroutine on, as a lambda does
        "async def f(): spawn(lambda: double(1))\n",
        "async def f(double): double(1)\n",
        "async def f():\n    double = len\n    double('')\n",
        "async def f():\n    def double(): pass\n    double()\n",
        "async def f(rpc): rpc.call(1)\n",
        "async def f():\n    nursery.start_soon(double, 1)\n    seen.append(unknown(1))\n",
        "async def f(): return (double(x) for x in ())\n",
    ],
)
def test_what_is_no_forgotten_await(source: str) -> None:
    assert compile_line(source, make_compiler(), make_names()) is not None


def test_incomplete_and_wrong_statements() -> None:
    compiler = make_compiler()
    for pending in ("f(", "async def f():", "if x:\n    send(<g.1.2>, 1)"):
        assert compile_line(pending, compiler, {}) is None
    for nothing in ("", "\n", "  # a comment", "# a\n\n#b\n"):
        assert compile_line(nothing, compiler, {}) is not None
    for wrong in ("1 +", "f(<g.1>)", "f(g.1.)", "return 1"):
        with pytest.raises(SyntaxError):
            compile_line(wrong, compiler, {})
    assert isinstance(compile_line("from __future__ import annotations", compiler, {}), CodeType)
