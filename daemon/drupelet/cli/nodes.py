"""Verbs that show, over the blocking client: ``status nodes names missions metrics version``."""

from __future__ import annotations

import sys
from typing import Final

from drupelet import __version__
from drupelet.cli import output
from drupelet.cli.grammar import Request
from drupelet.client.blocking import connect
from drupelet.errors import EXIT_DONE, RemoteProtocolError

_STATUS_FIRST: Final = (
    "name", "clone", "key", "version", "uptime_s", "nodes_up", "nodes_down", "missions",
)  # fmt: skip


def status(request: Request) -> int:
    """``status``."""
    found = _ask(request, "status")
    if not isinstance(found, dict):
        raise RemoteProtocolError("malformed status")
    if request.json:
        output.document(found)
    else:
        output.fields(_for_people(found))
    return EXIT_DONE


def _for_people(found: dict[str, object]) -> dict[str, object]:
    """A status in an order that reads well (a map on the wire is sorted), missions on one line."""
    order = [*(name for name in _STATUS_FIRST if name in found), *sorted(found)]
    shown = {name: found[name] for name in dict.fromkeys(order)}
    missions = shown.get("missions")
    if isinstance(missions, list) and all(isinstance(one, dict) for one in missions):
        shown["missions"] = [f"{one.get('name')} ({one.get('state')})" for one in missions]
    return shown


def nodes(request: Request) -> int:
    """``nodes``."""
    columns = ("name", "state", "host", "port", "rtt_ms", "reason", "clone", "key")
    return _list(
        request, "nodes", (), columns, "no other node is known yet; `drupelet why NODE` helps"
    )


def names(request: Request) -> int:
    """``names [HOST]``."""
    return _list(request, "names", request.arguments, ("name", "port"), "no names are registered")


def missions(request: Request) -> int:
    """``missions``."""
    columns = ("name", "state", "exports", "problem", "digest")
    empty = "this node serves no missions; list one in missions.d"
    return _list(request, "missions", (), columns, empty)


def metrics(request: Request) -> int:
    """``metrics``."""
    found = _ask(request, "metrics")
    if not isinstance(found, str):
        raise RemoteProtocolError("malformed metrics")
    if request.json:
        output.document(found)
    else:
        output.write(found if found.endswith("\n") else f"{found}\n")
    return EXIT_DONE


def version(request: Request) -> int:
    """``version``."""
    python = ".".join(map(str, sys.version_info[:3]))
    if request.json:
        output.document({"version": __version__, "python": python})
    else:
        output.line(f"drupelet {__version__} (Python {python})")
    return EXIT_DONE


def _ask(request: Request, function: str, *arguments: object) -> object:
    with connect(request.socket) as node:
        return node.call("", "node", function, *arguments)


def _list(
    request: Request,
    function: str,
    arguments: tuple[object, ...],
    columns: tuple[str, ...],
    empty: str,
) -> int:
    found = _ask(request, function, *arguments)
    if not isinstance(found, list | tuple) or not all(isinstance(row, dict) for row in found):
        raise RemoteProtocolError(f"malformed list of {function}")
    if request.json:
        output.document(found)
    elif found:
        output.table(list(found), columns)
    else:
        output.note(empty)
    return EXIT_DONE
