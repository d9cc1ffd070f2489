"""``run FILE.py``: one node in the foreground that serves the missions of a Python file to members.

Development's single opt-in: every function that the file marks with @mission is exported. The node
is this very process; the file is loaded by a mission worker, never here. It has the demo's cookie
and, while a demo runs, its port mapper, so that they find each other.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from drupelet.cli import output, places
from drupelet.cli.demo import program
from drupelet.cli.grammar import Request, UsageError
from drupelet.cli.output import Failed
from drupelet.wire.limits import NAME_CHARS_MAX

if TYPE_CHECKING:
    from drupelet.node import Node


def run(request: Request) -> int:
    """``run FILE.py [--name N]``."""
    from drupelet.cli.daemon import start_log
    from drupelet.core.missions import MissionSpec
    from drupelet.node import run_node

    file = Path(request.argument(0)).absolute()
    if not file.is_file():
        raise Failed(f"{file} is no file", mend="name a Python file with @mission functions")
    name = request.options.get("name") or default_name(file, socket.gethostname())
    if default_name(Path(name), "") != name:
        raise UsageError(f"--name {name!r}: a node's name has letters, digits, - and _", "run")
    port = request.integer(
        "mapper-port", places.demo_mapper_port() or places.MAPPER_PORT, 1, 65_535
    )
    directory = places.state_directory() / "run" / name
    (directory / "missions.d").mkdir(mode=0o700, parents=True, exist_ok=True)
    places.make_cookie()
    spec = MissionSpec(
        name="", modules=(str(file),), directory=str(file.parent), source="drupelet run"
    )
    start_log("info", terse=True)

    def on_ready(node: Node) -> None:
        me = program()
        output.line(
            f"node {name} serves {file.name} on port {node.port}. In another terminal, try:"
        )
        output.line(f"  {me} missions            # what it serves")
        output.line(f"  {me} call {name} MISSION FUNCTION [ARG...]")
        output.line("Ctrl-C stops it.")

    return run_node(places.development_config(name, directory, port), [spec], on_ready)


def default_name(file: Path, host_name: str) -> str:
    """The file's stem as a node's name; the host's when nothing of it is left."""
    stem = file.stem if file.suffix == ".py" else file.name
    for text in (stem, host_name.partition(".")[0]):
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")[:NAME_CHARS_MAX].strip("-_")
        if name:
            return name
    return "node"
