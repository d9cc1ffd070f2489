"""``nl``: ship new code to the cluster.

Decides what the words mean: one that ends in ``.py`` is a file of this machine, read here; any
other is a module or mission that the local node has. The daemon checks, signs and ships.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from drupelet.cli import output
from drupelet.cli.grammar import Request, UsageError
from drupelet.cli.output import Failed
from drupelet.client.blocking import connect
from drupelet.errors import EXIT_DONE, EXIT_FAILED, RemoteProtocolError
from drupelet.wire.bundles import module_problem
from drupelet.wire.limits import BUNDLE_MODULE_BYTES_MAX

NL_S: Final = 120.0  # as process/code.py has it


def nl(request: Request) -> int:
    """``nl MODULE_OR_FILE... [--mission M]``."""
    modules: list[object] = [_module(word) for word in request.arguments]
    timeout_s = request.seconds("timeout", NL_S)
    mission = request.options.get("mission")
    with connect(request.socket) as node:
        answer = node.call("", "code", "ship", modules, mission, timeout=timeout_s)
    match answer:
        case {"mission": str(name), "digest": str(digest), "nodes": dict(nodes)}:
            pass
        case _:
            raise RemoteProtocolError("malformed answer of code/ship")
    failed = [found for found in nodes.values() if not isinstance(found, dict) or not found["ok"]]
    if request.json:
        output.document(answer)
    else:
        width = max(map(len, nodes), default=0)
        for node_name, found in sorted(nodes.items()):
            output.line(f"{output.plain(node_name).ljust(width)}  {_shown(found)}")
        done = len(nodes) - len(failed)
        output.line(f"{output.plain(name)} is {digest[:12]} on {done} of {len(nodes)} nodes")
    return EXIT_FAILED if failed else EXIT_DONE


def _module(word: str) -> list[object]:
    """[name, source or None]."""
    if not word.endswith(".py"):
        if "/" in word:
            raise UsageError(f"{word} is neither a .py file nor the name of a module", "nl")
        return [word, None]
    file = Path(word)
    problem = module_problem(file.stem)
    if problem:
        raise Failed(f"{word}: {problem}", mend="name another file")
    try:
        with file.open("rb") as stream:
            source = stream.read(BUNDLE_MODULE_BYTES_MAX + 1)
    except OSError as error:
        raise Failed(
            f"{word} cannot be read: {error.strerror or error}", mend="name another file"
        ) from None
    if len(source) > BUNDLE_MODULE_BYTES_MAX:
        raise Failed(
            f"{word} is larger than {BUNDLE_MODULE_BYTES_MAX} bytes", mend="split it into modules"
        )
    return [file.stem, source]


def _shown(found: object) -> str:
    match found:
        case {"ok": True, "state": str(state)}:
            return {"loaded": "loaded", "known": "has it already"}.get(state, output.plain(state))
        case {"error": {"kind": str(kind), "message": str(message)}}:
            return output.plain(f"error: {kind}: {message}", None)
    return "error: malformed answer"
