"""The house rules as functions: a path and a text in, breaches out.

Each breach is one line that says where, what and what to do instead. test_repository.py holds the
repository against them; test_rules.py holds each of them against a planted breach.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping

from tests.tidy import tables

PACKAGE = "daemon/drupelet/"


def room_of(path: str) -> str:
    """The room of a file of the package: "wire" for wire/messages/x.py, "config" for config.py."""
    return path.removeprefix(PACKAGE).split("/")[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every imported name with its line: ``from drupelet.wire import ids`` is drupelet.wire.ids."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}"


def layers(path: str, text: str) -> list[str]:
    """Imports that the tables ROOMS, LIBRARIES, SANS_IO_STDLIB and CORE_SIBLINGS do not allow."""
    room = room_of(path)
    if room not in tables.ROOMS:
        return [f"{path}: the room {room} is not in ROOMS (tests/tidy/tables.py)"]
    breaches = []
    for line, name in imports(ast.parse(text)):
        parts = name.split(".")
        if name.startswith("."):
            breaches.append(f"{path}:{line}: relative import; write it from drupelet on")
        elif parts[0] == "drupelet":
            known = {*tables.ROOMS, "__version__"}
            other = parts[1] if len(parts) > 1 and parts[1] in known else "__init__"
            if other != room and other not in tables.ROOMS[room]:
                breaches.append(f"{path}:{line}: {room} may not import {other}")
            elif room == other == "core" and len(parts) > 2:
                own = path.removesuffix(".py").rsplit("/", 1)[1]
                if parts[2] not in tables.CORE_SIBLINGS.get(own, set()):
                    breaches.append(f"{path}:{line}: core.{own} may not know core.{parts[2]}")
        elif parts[0] in sys.stdlib_module_names:
            extra = tables.SANS_IO_STDLIB_EXTRA.get(room, set())
            if room in tables.SANS_IO and parts[0] not in tables.SANS_IO_STDLIB | extra:
                breaches.append(f"{path}:{line}: {room} is sans-IO and may not import {parts[0]}")
        elif parts[0] not in tables.LIBRARIES.get(room, set()):
            breaches.append(f"{path}:{line}: {room} may not import the library {parts[0]}")
    return breaches


def sizes(path: str, text: str, exceptions: Mapping[str, str]) -> list[str]:
    """Modules and functions above the ceilings."""
    if any(path.startswith(folder) for folder in exceptions if folder.endswith("/")):
        return []
    breaches = []
    count = text.count("\n")
    if count > tables.MODULE_LINES_MAX and path not in exceptions:
        breaches.append(
            f"{path}: {count} lines; the ceiling is {tables.MODULE_LINES_MAX}: split it"
        )
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if count > tables.FUNCTION_LINES_MAX and f"{path}:{node.name}" not in exceptions:
                breaches.append(
                    f"{path}:{node.lineno}: {node.name} has {count} lines; "
                    f"the ceiling is {tables.FUNCTION_LINES_MAX}"
                )
    return breaches


def twins(paths: Iterable[str], tests: set[str], exceptions: Mapping[str, str]) -> list[str]:
    """Modules of the package without tests/unit/<same folder>/test_<same noun>.py."""
    breaches = []
    for path in paths:
        inner = path.removeprefix(PACKAGE)
        folder, _, name = inner.rpartition("/")
        if name in ("__init__.py", "__main__.py") or inner in exceptions:
            continue
        twin = "/".join(part for part in ("tests/unit", folder, f"test_{name}") if part)
        if twin not in tests:
            breaches.append(f"{path}: has no twin {twin}")
    return breaches


def hollow(path: str, text: str) -> list[str]:
    """Logic in an __init__.py or __main__.py, where no twin test looks."""
    tree = ast.parse(text)
    long = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno > 12
    ]
    return [f"{path}:{node.lineno}: {node.name}: logic belongs in a named module" for node in long]


def maxima(path: str, text: str, exceptions: Mapping[str, str]) -> list[str]:
    """Public numbers named ..._MAX in wire/ outside limits.py."""
    breaches: list[str] = []
    if path.startswith(tables.MAXIMA_EXEMPT):
        return breaches
    inner = path.removeprefix(PACKAGE)
    for node in ast.parse(text).body:
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        elif isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        else:
            continue
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if any(isinstance(part, ast.Name | ast.Attribute) for part in ast.walk(value)):
            continue  # made from other names, which have their own place
        breaches += [
            f"{path}:{node.lineno}: {name} belongs in wire/limits.py, with its reason"
            for name in names
            if name.endswith("_MAX")
            and not name.startswith("_")
            and f"{inner}:{name}" not in exceptions
        ]
    return breaches


def _dotted(node: ast.expr, aliases: Mapping[str, str]) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([aliases.get(node.id, node.id), *reversed(parts)])


def _aliases(tree: ast.AST) -> dict[str, str]:
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def _is_banned(name: str, ban: tables.Ban) -> bool:
    if ban.name.endswith(".*"):
        return name.startswith(ban.name[:-1]) or name == ban.name[:-2]
    return name == ban.name


def banned(path: str, text: str) -> list[str]:
    """Calls and imports of the table BANS."""
    bans = [
        ban
        for ban in tables.BANS
        if path.startswith(ban.where) and not path.startswith(ban.but or "?")
    ]
    tree = ast.parse(text)
    aliases = _aliases(tree)
    virtual = _virtual_lines(tree)
    used = list(imports(tree))
    used += [
        (node.lineno, _dotted(node.func, aliases))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]
    return [
        f"{path}:{line}: {name} is banned here; instead: {ban.instead}"
        for line, name in used
        for ban in bans
        if _is_banned(name, ban) and not (name == "trio.sleep" and line in virtual)
    ]


def _virtual_lines(tree: ast.AST) -> set[int]:
    """Lines of functions that run in virtual time: their sleeps take none."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = {
                argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)
            }
            if names & {"autojump_clock", "mock_clock"}:
                found.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return found


def swallowed(path: str, text: str) -> list[str]:
    """Handlers of BaseException, trio.Cancelled or everything that do not raise."""
    breaches = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        names = {"" if kind is None else ast.unparse(kind) for kind in kinds}
        if names & {"", "BaseException", "trio.Cancelled"} and not any(
            isinstance(part, ast.Raise) for part in ast.walk(node)
        ):
            breaches.append(f"{path}:{node.lineno}: swallows cancellation; raise it again")
    return breaches


def loud(path: str, text: str) -> list[str]:
    """Logging above DEBUG in the rooms that know too little to judge."""
    if not path.startswith(tables.QUIET_ROOMS):
        return []
    return [
        f"{path}:{node.lineno}: {ast.unparse(node.func)}: this room logs nothing above DEBUG; "
        "raise, or return it to services"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in tables.LOUD_LEVELS
        and isinstance(node.func.value, ast.Name)
        and re.fullmatch(r"_?(log|logger|logging)", node.func.value.id, re.IGNORECASE)
    ]


# Written in pieces, so that this file does not name them either.
_OF_THIS_MACHINE = re.compile(
    "|".join(
        (
            "/wor" + "k/",
            r"\.\./sha" + "red",
            "/tmp/bash" + "_jobs",
            "/opt/py" + "pi",
            "/home/[a-z]+/src",
        )
    )
)


def machine_paths(path: str, text: str) -> list[str]:
    """Names of places that only the author's machine has."""
    return [
        f"{path}:{number}: names a place of one machine: {found[0]}"
        for number, line in enumerate(text.split("\n"), start=1)
        if (found := _OF_THIS_MACHINE.search(line))
    ]


def layout(paths: Iterable[str]) -> list[str]:
    """Names at the top of the repository that have no place there."""
    tops = {path.split("/")[0] for path in paths}
    strays = {top for top in tops if top not in tables.TOP_LEVEL and not top.startswith(".")}
    return [f"{stray}: not a place at the top level; see README.md" for stray in sorted(strays)]


_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMANDS = ("console", "sh", "bash", "shell")


def unrun_commands(path: str, text: str) -> list[str]:
    """Blocks of commands that no test runs.

    ```console blocks are run by tests/integration/test_docs.py. A block that cannot be run (another
    machine, root, hours) has ``<!-- not run: why -->`` on the line before it.
    """
    breaches = []
    for block in _FENCE.finditer(text):
        before = text[: block.start()].rstrip("\n").rsplit("\n", 1)[-1]
        excused = re.fullmatch(r"\s*<!-- not run: \S.* -->", before)
        if block[1] in _COMMANDS and block[1] != "console" and not excused:
            line = text.count("\n", 0, block.start()) + 1
            breaches.append(
                f"{path}:{line}: commands that no test runs: use ```console with `$ ` before each "
                "command, or put <!-- not run: why --> above"
            )
    return breaches
