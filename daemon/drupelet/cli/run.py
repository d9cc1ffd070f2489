"""``run FILE.py``: one node in the foreground that serves the missions of a Python file to members.

Development's single opt-in: every function that the file marks with @mission is exported. The node
is this very process; the file is loaded by a mission worker, never here. It has the demo's cookie
and, while a demo runs, its port mapper, so that they find each other; with --alone it has neither,
and others come in by grants. A file that does not load ends it (exit code 1), as `python FILE.py`
would; an installed daemon goes on without that mission.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drupelet.cli import output, places
from drupelet.cli.demo import program
from drupelet.cli.grammar import Request, UsageError
from drupelet.cli.output import Failed
from drupelet.net import sockets
from drupelet.wire.limits import NAME_CHARS_MAX

if TYPE_CHECKING:
    from drupelet.config import Config
    from drupelet.node import Node

_SHOWN_MAX: Final = 8  # functions that the greeting lists; the rest of a big file would hide it


def run(request: Request) -> int:
    """``run FILE.py [--name N]``."""
    from drupelet.cli.daemon import start_log
    from drupelet.core.missions import MissionSpec
    from drupelet.node import run_node

    file = Path(request.argument(0)).absolute()
    if not file.is_file():
        raise Failed(f"{file} is no file", mend="name a Python file with @mission functions")
    if file.suffix != ".py":
        raise Failed(f"{file} does not end in .py", mend="rename it, or name another file")
    name = request.options.get("name") or default_name(file, socket.gethostname())
    if default_name(Path(name), "") != name:
        rule = f"a node's name has 1 to {NAME_CHARS_MAX} letters, digits, - and _"
        raise UsageError(f"--name {name!r}: {rule}; a letter or digit first and last", "run")
    config, alone = _config(request, name), "alone" in request.options
    spec = MissionSpec(
        name="", modules=(str(file),), directory=str(file.parent), source="drupelet run"
    )
    start_log("info", terse=True)
    if _answers(config.node.socket):
        raise Failed(
            f"a node named {name} runs on this machine already",
            mend="stop it (Ctrl-C there), or choose another name with --name",
        )
    broken: Failed | None = None
    try:
        return run_node(config, [spec], lambda node: _greet(node, file, alone))
    except* Failed as group:  # trio's nurseries wrap it
        broken = _first(group)
    raise broken


def _config(request: Request, name: str) -> Config:
    """The node's configuration; its directories and its cookie are there."""
    port = request.integer(
        "mapper-port", places.demo_mapper_port() or places.MAPPER_PORT, 1, 65_535
    )
    listen = request.options.get("listen", places.LOOPBACK)
    try:
        ipaddress.ip_address(listen)
    except ValueError:
        raise UsageError(
            f"--listen {listen!r} is no address; 0.0.0.0 is all that this computer has", "run"
        ) from None
    directory = places.state_directory() / "run" / name
    (directory / "missions.d").mkdir(mode=0o700, parents=True, exist_ok=True)
    config = places.development_config(
        name, directory, port, listen=listen, alone="alone" in request.options
    )
    places.make_cookie(config.link.cookie_file)
    return config


def _greet(node: Node, file: Path, alone: bool = False) -> None:
    """Say how to call what the file exports. Raises: `Failed` when the file does not load."""
    for mission in node.missions.snapshot():
        if mission["state"] == "refused":
            raise Failed(
                f"{file.name} does not load:\n{str(mission['problem']).partition(': ')[2]}",
                mend="correct the file and start again",
            )
    served = node.missions.exports.values()
    exports = [one for one in served if one.inline is None and one.raw is None]
    me = f"{program()} --socket {node.name}" if alone else program()
    output.line(f"node {node.name} serves {file.name} on port {node.port}. In another terminal:")
    for export in exports[:_SHOWN_MAX]:
        call = f"{me} call {node.name} {export.mission} {export.function}"
        output.line(f"  {output.plain(call, None)}    # {output.plain(export.signature, None)}")
    if not exports:
        output.line("  (nothing to call yet: the file's process is not ready, see the log)")
    if len(exports) > _SHOWN_MAX:
        output.line(f"  ... and {len(exports) - _SHOWN_MAX} more")
    output.line("Ctrl-C stops it.")


def _answers(path: Path) -> bool:
    with contextlib.suppress(OSError):
        sockets.connect_nowait(str(path)).close()
        return True
    return False


def _first(group: BaseExceptionGroup[Failed]) -> Failed:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Failed)
    return error


def default_name(file: Path, host_name: str) -> str:
    """The file's stem as a node's name; the host's when nothing of it is left."""
    stem = file.stem if file.suffix == ".py" else file.name
    for text in (stem, host_name.partition(".")[0]):
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")[:NAME_CHARS_MAX].strip("-_")
        if name:
            return name
    return "node"
