"""The verbs that call: ``call cast casts multicall ping why``. All over the blocking client."""

from __future__ import annotations

from typing import Final

from drupelet.cli import output
from drupelet.cli.grammar import Request, UsageError
from drupelet.cli.values import BadValue, dump, parse_argument
from drupelet.client.blocking import BlockingClient, connect
from drupelet.client.protocol import TIMEOUT_S
from drupelet.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_NO_CONNECTION,
    REASONS,
    CallError,
    NoConnection,
    RemoteProtocolError,
)

WHY_S: Final = 15.0  # `why` dials: resolve, mapper, link, each with its own shorter deadline
_MARKS: Final = {True: "ok  ", False: "FAIL", None: "-   "}


def call(request: Request) -> int:
    """``call NODE MISSION FUNCTION [ARG...]``."""
    node_name, mission, function, *texts = request.arguments
    arguments = arguments_of(request, texts)
    timeout_s = request.seconds("timeout", TIMEOUT_S)
    with connect(request.socket) as node:
        value = node.call(
            named(node, node_name),
            mission,
            function,
            *arguments,
            timeout=timeout_s,
            idempotency_key=request.options.get("key"),
        )
    output.document(value)
    return EXIT_DONE


def cast(request: Request) -> int:
    """``cast NODE MISSION FUNCTION [ARG...]``."""
    node_name, mission, function, *texts = request.arguments
    arguments = arguments_of(request, texts)
    with connect(request.socket) as node:
        kept = node.post(
            named(node, node_name),
            mission,
            function,
            *arguments,
            idempotency_key=request.options.get("key"),
        )
    if request.json:
        output.document({"kept": kept})
    elif kept:
        output.note(f"kept; {output.plain(node_name)} runs it once, when it can be reached")
    return EXIT_DONE


def casts(request: Request) -> int:
    """``casts``."""
    with connect(request.socket) as node:
        found = node.call("", "once", "waiting")
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise RemoteProtocolError("malformed list of casts")
    if request.json:
        output.document(found)
    elif found:
        output.table(found, ("node", "target", "bytes", "left_s", "why"))
    else:
        output.note("no cast waits")
    return EXIT_DONE


def multicall(request: Request) -> int:
    """``multicall NODES MISSION FUNCTION [ARG...]``."""
    names, mission, function, *texts = request.arguments
    arguments = arguments_of(request, texts)
    timeout_s = request.seconds("timeout", TIMEOUT_S)
    chosen = None if names == "all" else [name for name in names.split(",") if name]
    if chosen == []:
        raise UsageError("NODES is empty; name nodes with commas between, or `all`", "multicall")
    with connect(request.socket) as node:
        results = node.multicall(chosen, mission, function, *arguments, timeout=timeout_s)
    failed = [name for name, result in results.items() if isinstance(result, CallError)]
    if request.json:
        output.document({name: _outcome(result) for name, result in results.items()})
    else:
        width = max(map(len, results), default=0)
        for name, result in results.items():
            if isinstance(result, CallError):
                output.line(f"{name.ljust(width)}  error: {output.plain(str(result), None)}")
            else:
                output.line(f"{name.ljust(width)}  {dump(result)}")
    return EXIT_FAILED if failed else EXIT_DONE


def ping(request: Request) -> int:
    """``ping NODE``."""
    name = request.argument(0)
    timeout_s = request.seconds("timeout", TIMEOUT_S)
    with connect(request.socket) as node:
        result = node.ping(name, timeout=timeout_s)
    ok = result.get("ok") is True
    if request.json:
        output.document(result)
    elif ok:
        rtt_ms = result.get("rtt_ms")
        shown = f" in {rtt_ms:.2f} ms" if isinstance(rtt_ms, int | float) else ""
        output.line(f"{output.plain(name)} answers{shown}")
    else:
        reason = str(result.get("reason", ""))
        output.line(f"{output.plain(name)} does not answer: {output.plain(reason)}")
        output.note(f"why: {REASONS.get(reason, 'the node cannot be reached')}")
        mend = output.REASON_MENDS.get(reason, "")
        output.note(f"mend: {mend}" if mend else f"mend: drupelet why {output.plain(name)}")
    return EXIT_DONE if ok else EXIT_NO_CONNECTION


def why(request: Request) -> int:
    """``why NODE [MISSION [FUNCTION]]``."""
    words = request.arguments
    timeout_s = request.seconds("timeout", WHY_S)
    try:
        with connect(request.socket) as node:
            found = node.call("", "node", "why", *words, timeout=timeout_s)
    except NoConnection as error:
        found = {"ok": False, "step": "daemon", "reason": error.reason, "mend": output.mend(error)}
    if not isinstance(found, dict):
        raise RemoteProtocolError("malformed answer to why")
    ok = found.get("ok") is True
    if request.json:
        output.document(found)
        return EXIT_DONE if ok else EXIT_FAILED
    steps = found.get("steps")
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, dict):
            _show_step(step)
    if ok:
        output.line(f"nothing is wrong with {output.plain(' '.join(words))}")
    else:
        reason = str(found.get("reason", ""))
        meaning = REASONS.get(reason, "")
        output.line(f"broken step: {output.plain(found.get('step'))}")
        output.line(f"reason: {output.plain(reason)}{f' ({meaning})' if meaning else ''}")
        output.line(f"mend: {output.plain(found.get('mend'), None)}")
    return EXIT_DONE if ok else EXIT_FAILED


def _show_step(step: dict[str, object]) -> None:
    state = step.get("ok")
    mark = _MARKS[state if isinstance(state, bool) else None]
    detail = step.get("detail") or step.get("reason") or step.get("text") or ""
    output.line(
        f"{mark}  {output.plain(step.get('step')).ljust(10)}  {output.plain(detail, None)}".rstrip()
    )


def named(node: BlockingClient, name: str) -> str:
    """The node to ask: the local one needs no detour over its own name."""
    return "" if name == node.name else name


def arguments_of(request: Request, texts: list[str]) -> list[object]:
    """The words as values. Raises: `UsageError`."""
    try:
        return [parse_argument(text) for text in texts]
    except BadValue as error:
        raise UsageError(str(error), request.verb.name) from None


def _outcome(result: object) -> dict[str, object]:
    if isinstance(result, CallError):
        return {"error": output.error_document(result)}
    return {"value": result}
