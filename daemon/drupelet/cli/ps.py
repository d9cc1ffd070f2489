"""``ps``: the processes of a node, or of all nodes; like Unix's `ps` and Erlang's ``i()``.

Decides which of a process's fields are shown, and how. Only missions whose code uses processes
(an async function, a GenServer), shells and programs that joined a node have any.
"""

from __future__ import annotations

from typing import Final

from drupelet.cli import output
from drupelet.cli.calls import named
from drupelet.cli.grammar import Request
from drupelet.cli.pids import bare
from drupelet.client.blocking import connect
from drupelet.errors import EXIT_DONE, EXIT_FAILED, CallError, RemoteProtocolError
from drupelet.wire.ids import Pid, Ref

COLUMNS: Final = ("pid", "names", "function", "mission", "status", "messages", "received", "links")
NO_PROCESSES: Final = (
    "no process runs there: missions with async functions or a GenServer have processes, and so "
    "has `drupelet shell`"
)


def ps(request: Request) -> int:
    """``ps [NODE]``."""
    wanted = request.argument(0)
    with connect(request.socket) as node:
        if wanted:
            found = {wanted: node.call(named(node, wanted), "process", "list")}
        else:
            found = node.multicall(None, "process", "list")
    failed = {name: value for name, value in found.items() if isinstance(value, CallError)}
    rows = [row for name, value in found.items() if name not in failed for row in rows_of(value)]
    if request.json:
        output.document([_for_machines(row) for row in rows])
    elif rows:
        show(rows)
    elif not failed:
        output.note(NO_PROCESSES)
    for name, error in failed.items():
        output.note(f"{output.plain(name)}: {output.plain(str(error), None)}")
    return EXIT_FAILED if failed else EXIT_DONE


def rows_of(value: object) -> list[dict[str, object]]:
    """What a node says of its processes, in order. Raises: `RemoteProtocolError`."""
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise RemoteProtocolError("malformed list of processes")
    for row in value:
        row["mission"] = row.pop("runtime", "")
        row.setdefault("status", row.pop("state", ""))  # of a runtime that did not answer
    return sorted(value, key=_order)


def show(rows: list[dict[str, object]]) -> None:
    """The table for people."""
    output.table([_for_people(row) for row in rows], COLUMNS)


def _order(row: dict[str, object]) -> tuple[str, int]:
    pid = row.get("pid")
    return str(row["mission"]), pid.number if isinstance(pid, Pid) else 0


def _for_people(row: dict[str, object]) -> dict[str, object]:
    pid, links = row.get("pid"), row.get("links")
    function = str(row.get("function", "")).removeprefix("mission_")
    return row | {
        "pid": bare(pid) if isinstance(pid, Pid) else "",
        "function": function,
        "links": len(links) if isinstance(links, list) else None,
    }


def _for_machines(row: dict[str, object]) -> dict[str, object]:
    """Pids as text: `jq -r '.[0].pid'` is what `trace` takes."""
    return {key: _text(value) for key, value in row.items()}


def _text(value: object) -> object:
    if isinstance(value, Pid | Ref):
        return str(value)
    if isinstance(value, list | tuple):
        return [_text(each) for each in value]
    return value
