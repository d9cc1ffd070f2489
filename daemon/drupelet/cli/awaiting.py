"""A line of the shell: where `await` may be left out, and where its absence is told.

Decides what a line means before it runs:

- On a line of its own each call that gives a coroutine is awaited at once: ``pid = spawn(f)``,
  ``send(pid, 1)``, ``[ping(each) for each in nodes()]``, as in erl. That takes nothing away: in
  trio nobody has a use for a coroutine that is not awaited. `await` before what needs none is fine.
- Inside ``def`` and ``async def`` nothing is added: what is typed there is to work in a file too. A
  call there that lacks its `await` is refused, with what to write: it would do nothing, silently.
  A ``lambda`` and ``return f(x)`` hand the coroutine on, so there it is right as it stands.
- The same is told of a whole program (`check_awaits`; the lessons use it).
- A pid may stand in a line as it is printed (`pids.py`).

References: `ast.PyCF_ALLOW_TOP_LEVEL_AWAIT`; IPython's autoawait.
Rejected: awaiting only what the line's last value is (``pid = spawn(f)`` would keep a coroutine);
adding `await` inside functions (copied into a file, they would stop working).
"""

from __future__ import annotations

import ast
import codeop
import inspect
from collections.abc import Mapping
from types import CodeType, MethodType, ModuleType
from typing import Final

from drupelet.cli.pids import pids_in_code

FILE: Final = "<shell>"
# With these codeop learns whether more is to come; the statement is complete when we have it.
_ONLY_WHILE_TYPED: Final = 0x200 | 0x4000  # PyCF_DONT_IMPLY_DEDENT, _ALLOW_INCOMPLETE_INPUT
SETTLE: Final = "__settle__"  # the name under which a line finds `settle`


async def settle(value: object) -> object:
    """The value of a call: of a coroutine, what it gives."""
    return await value if inspect.isawaitable(value) else value


def make_compiler() -> codeop.CommandCompiler:
    """Knows when a statement is complete, and takes `await` outside of functions."""
    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return compiler


def compile_line(
    source: str, compiler: codeop.CommandCompiler, names: Mapping[str, object]
) -> CodeType | None:
    """The code of a statement, None while it is not complete.

    `names`: what it will find. Raises: `SyntaxError`, `ValueError`, `OverflowError`.
    """
    try:
        code = compiler(source, FILE, "single")
    except SyntaxError:
        with_pids = pids_in_code(source)
        if with_pids == source:
            raise
        source = with_pids
        code = compiler(source, FILE, "single")
    if code is None or all(line.strip()[:1] in ("", "#") for line in source.splitlines()):
        return code
    flags = compiler.compiler.flags & ~_ONLY_WHILE_TYPED
    tree = compile(source, FILE, "single", flags | ast.PyCF_ONLY_AST)
    _Teacher(names, source).visit(tree)
    settled = ast.fix_missing_locations(_Settler().visit(tree))
    settled_code: CodeType = compile(settled, FILE, "single", flags)
    return settled_code


def check_awaits(text: str, names: Mapping[str, object], file: str) -> None:
    """A program with what it loaded. Raises: `SyntaxError` for a call that lacks its `await`."""
    _Teacher(names, text, file).visit(ast.parse(text))


class _Settler(ast.NodeTransformer):
    """``f(x)`` becomes ``await __settle__(f(x))``, outside of functions and generators."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return _settled(node)

    def visit_Await(self, node: ast.Await) -> ast.AST:
        if isinstance(node.value, ast.Call):
            self.generic_visit(node.value)
        else:
            self.generic_visit(node)
        return _settled(node.value)

    def _leave(self, node: ast.AST) -> ast.AST:
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _leave
    visit_ClassDef = visit_GeneratorExp = _leave


def _settled(value: ast.expr) -> ast.Await:
    settle_name = ast.copy_location(ast.Name(SETTLE, ast.Load()), value)
    call = ast.copy_location(ast.Call(settle_name, [value], []), value)
    return ast.copy_location(ast.Await(call), value)


class _Teacher(ast.NodeVisitor):
    """Finds calls in functions that lack their `await`. Raises: `SyntaxError`."""

    def __init__(self, names: Mapping[str, object], source: str, file: str = FILE) -> None:
        self._names = names
        self._file = file
        self._lines = source.splitlines()
        self._function: ast.FunctionDef | ast.AsyncFunctionDef | None = None
        self._own: set[str] = set()  # what the functions around name themselves

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        function, own = self._function, self._own
        self._function, self._own = node, own | _own_names(node)
        for statement in node.body:
            self.visit(statement)
        self._function, self._own = function, own

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        pass

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        pass

    def visit_Await(self, node: ast.Await) -> None:
        self._pass_over(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if isinstance(self._function, ast.FunctionDef):
            self._pass_over(node.value)
        else:
            self.generic_visit(node)

    def _pass_over(self, value: ast.expr | None) -> None:
        if isinstance(value, ast.Call):
            self.generic_visit(value)
        elif value is not None:
            self.visit(value)

    def visit_Call(self, node: ast.Call) -> None:
        function = self._function
        if function is not None and self._waits(node.func):
            what = ast.unparse(node.func)
            mend = f"{what}(...) waits: inside a function, write `await {what}(...)`"
            if isinstance(function, ast.FunctionDef):
                mend += f", and `async def {function.name}`"
            text = self._lines[node.lineno - 1] if node.lineno <= len(self._lines) else ""
            raise SyntaxError(mend, (self._file, node.lineno, node.col_offset + 1, text))
        self.generic_visit(node)

    def _waits(self, function: ast.expr) -> bool:
        match function:
            case ast.Name(id=name) if name not in self._own:
                found = self._names.get(name)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name not in self._own:
                base = self._names.get(name)
                if not isinstance(base, ModuleType | type):
                    return False
                found = getattr(base, attribute, None)
            case _:
                return False
        if isinstance(found, MethodType):
            found = found.__func__
        return inspect.iscoroutinefunction(found)


def _own_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """What a function's arguments and assignments are called."""
    own = {each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)}
    for each in ast.walk(function):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            own.add(each.id)
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(each.name)
    own.discard(function.name)
    return own
