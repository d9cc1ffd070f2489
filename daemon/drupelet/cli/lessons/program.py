"""A lesson's program: read, shown, loaded.

Decides what a program is: a Python file with an ``async def main()`` at its top, or
``async def main(cluster)`` where the lesson breaks something (see stage.py). It is loaded as the
module MODULE, whatever its file is called: so the same file is the same code on every node, and a
learner's copy takes the place of the course's. What it prints is caught by giving the module a
``print`` of its own: what others in this process print is theirs.

Rules
- The docstring is the idea: a title, an empty line, and some lines; the rest is the program.
- A file that does not load is a `ProgramError`: what, where (file:line), what to do.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.util
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from drupelet.cli.awaiting import check_awaits
from drupelet.cli.meant import meant
from drupelet.errors import DrupeletError
from drupelet.wire.limits import BUNDLE_MODULE_BYTES_MAX

MODULE: Final = "lesson"
FOLDER: Final = Path(__file__).parents[2] / "lessons"  # in a checkout a link to daemon/lessons
_LINES_MAX: Final = 1_000  # of what a program prints: one in an endless loop
_LINE_CHARS_MAX: Final = 1_000


class ProgramError(DrupeletError):
    """A file that is no program. `mend`: what to do."""

    def __init__(self, what: str, *, mend: str) -> None:
        super().__init__(what)
        self.mend = mend


class Program:
    """One file. Raises: `ProgramError` when it cannot be read or is no Python."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            with file.open("rb") as stream:
                self.source = stream.read(BUNDLE_MODULE_BYTES_MAX + 1)
        except OSError as error:
            raise ProgramError(
                f"{file} cannot be read: {error.strerror or error}",
                mend="name a Python file; --copy makes one of a lesson",
            ) from None
        if len(self.source) > BUNDLE_MODULE_BYTES_MAX:
            raise ProgramError(
                f"{file} is larger than {BUNDLE_MODULE_BYTES_MAX} bytes", mend="make it shorter"
            )
        try:
            self.text = self.source.decode()
            tree = ast.parse(self.text)
            compile(tree, str(file), "exec")  # it knows what a tree does not: an await in a `def`
        except SyntaxError as error:
            mend = "look at that line and the one above: a bracket, a colon, the indentation?"
            if "outside async function" in str(error.msg):
                mend = "where this function begins, write `async def`"
            raise self._unreadable("Python cannot read this: ", error, mend) from None
        except ValueError as error:
            raise ProgramError(f"{file} is no text: {error}", mend="save it as UTF-8") from None
        idea = ast.get_docstring(tree) or ""
        self.title, _, self.idea = (part.strip() for part in idea.partition("\n"))
        self.code = _without_docstring(self.text, tree)

    @contextmanager
    def loaded(self) -> Iterator[Loaded]:
        """The program as a module, as long as the block lasts. Raises: `ProgramError`."""
        name = str(self.file)
        loader = _Loader(name, self.text)
        spec = importlib.util.spec_from_loader(MODULE, loader, origin=name)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loaded = Loaded(self, module)
        former = sys.modules.get(MODULE)
        sys.modules[MODULE] = module
        try:
            try:
                loader.exec_module(module)
            except Exception as error:
                raise ProgramError(
                    f"{name} does not load: {self.where(error)}",
                    mend="correct that line; an import that fails names what is missing",
                ) from None
            if not inspect.iscoroutinefunction(getattr(module, "main", None)):
                raise ProgramError(
                    f"{name} has no main", mend="it must have `async def main():` at its top"
                )
            try:
                check_awaits(self.text, vars(module), name)
            except SyntaxError as error:
                mend = "without its `await` it does nothing"
                raise self._unreadable("", error, mend) from None
            yield loaded
        finally:
            if former is None:
                del sys.modules[MODULE]
            else:
                sys.modules[MODULE] = former

    def _unreadable(self, what: str, error: SyntaxError, mend: str) -> ProgramError:
        lines = self.text.splitlines()
        line = error.lineno or 0
        shown = lines[line - 1].strip() if 0 < line <= len(lines) else ""
        return ProgramError(f"{self.file}:{line}: {what}{error.msg}\n    {shown}", mend=mend)

    def where(self, error: BaseException) -> str:
        """An exception in words, with the last line of this file that it passed."""
        words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        near = meant(error)
        if near:
            words += f". Did you mean: '{near}'?"
        frames = traceback.extract_tb(error.__traceback__)
        for frame in reversed(frames):
            if frame.filename == str(self.file):
                return f"{words}  (line {frame.lineno}: {frame.line})"
        return words


class _Loader(importlib.abc.InspectLoader):
    """Runs the text that was read: no byte code on disk that a quick edit could meet."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text

    def get_source(self, fullname: str) -> str:
        return self._text

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self._text, self._name)


class Loaded:
    """A program that can run."""

    def __init__(self, program: Program, module: types.ModuleType) -> None:
        self.program = program
        self.module = module
        self.printed: list[str] = []  # lines, of processes that run here
        vars(module)["print"] = self._print

    @property
    def main(self) -> Callable[..., Any]:
        """Its first function."""
        main: Callable[..., Any] = self.module.main
        return main

    @property
    def takes_cluster(self) -> bool:
        """Whether `main` wants the hand that breaks things."""
        return bool(inspect.signature(self.main).parameters)

    def __getattr__(self, name: str) -> Any:
        """What the program defines: ``loaded.counter``."""
        return getattr(self.module, name)

    def _print(self, *words: object, sep: str = " ", end: str = "\n", **_: object) -> None:
        text = (sep or " ").join(map(str, words)) + ("" if end is None else end)
        for line in text.removesuffix("\n").split("\n"):
            if len(self.printed) < _LINES_MAX:
                self.printed.append(line[:_LINE_CHARS_MAX])


def _without_docstring(text: str, tree: ast.Module) -> str:
    first = tree.body[0] if tree.body else None
    if first is None or ast.get_docstring(tree) is None:
        return text
    return "\n".join(text.split("\n")[first.end_lineno :]).strip("\n") + "\n"


__all__ = ["FOLDER", "MODULE", "Loaded", "Program", "ProgramError"]
