"""The verb ``relay [catalogue]``: this node's connection to its relay, and who is there for it.

Decides the words and the exit code: 0 when the relay has let this node in, 5 when it has not.
"""

from __future__ import annotations

from typing import Final

from drupelet.cli import output
from drupelet.cli.grammar import Request, UsageError
from drupelet.client.blocking import connect
from drupelet.errors import EXIT_DONE, EXIT_NO_CONNECTION, NoConnection, RemoteProtocolError

_ASK_S: Final = 15.0  # a connection that has to be made again, and pages
_FIELDS: Final = ("url", "way", "state", "why", "mend", "account", "name", "email", "queued")


def relay(request: Request) -> int:
    """``relay [catalogue]``."""
    what = request.arguments[0] if request.arguments else ""
    if what == "catalogue":
        return _catalogue(request)
    if what:
        raise UsageError(f"relay {what}: there is `relay` and `relay catalogue`", "relay")
    with connect(request.socket) as node:
        found = node.call("", "relay", "status")
    if not isinstance(found, dict):
        raise RemoteProtocolError("malformed answer of relay/status")
    if request.json:
        output.document(found)
    else:
        output.fields(_for_people(found))
    return EXIT_DONE if found.get("state") == "up" else EXIT_NO_CONNECTION


def _catalogue(request: Request) -> int:
    with connect(request.socket) as node:
        try:
            found = node.call("", "relay", "catalogue", timeout=_ASK_S)
        except NoConnection as error:
            raise _why_not(node.call("", "relay", "status"), error) from None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise RemoteProtocolError("malformed answer of relay/catalogue")
    if request.json:
        output.document(found)
    elif found:
        output.table(found, ("name", "missions", "granted", "key"))
    else:
        output.note("no node at the relay has granted anything to this node's key")
    return EXIT_DONE


class _NotIn(NoConnection):
    """The relay has not let this node in."""

    def __init__(self, why: str, mend: str) -> None:
        super().__init__("no_route")
        self.args = (f"not let in by the relay: {why}",)
        self.mend = mend


def _why_not(status: object, error: NoConnection) -> NoConnection:
    """With what `drupelet relay` would show, where that says more."""
    match status:
        case {"state": str(state), "why": str(why), "mend": str(mend)} if state != "up":
            return _NotIn(why or state, mend or "`drupelet relay` shows how it goes on")
    return error


def _for_people(found: dict[str, object]) -> dict[str, object]:
    shown = {name: found[name] for name in _FIELDS if found.get(name) not in (None, "")}
    since, announced, urls = found.get("since_s"), found.get("announced_s"), found.get("urls")
    if found.get("state") == "down" and not found.get("mend"):
        shown["mend"] = (
            f"it is tried again by itself; does it answer? curl {found.get('url')}/healthz"
        )
    if isinstance(since, int | float):
        shown["state"] = f"{found.get('state')}, for {output.span(since)}"
    if isinstance(announced, int | float):
        shown["announced"] = f"{output.span(announced)} ago"
    if isinstance(urls, list):
        others = [each for each in urls if each != found.get("url")]
        shown |= {"others": others} if others else {}
    return shown
