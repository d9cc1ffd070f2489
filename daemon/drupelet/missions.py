"""Grants from a program: what `drupelet grant` does, in Python.

    from drupelet import missions

    given = await missions.grant("light", to=KEY, only=["temp"], rate="10/m", expires="30d")
    print(given.sentence)
    Path("bob.grant").write_text(given.text)

    held = await missions.accept(Path("alice.grant").read_text())
    less = await held.narrow(to=DAVE, rate="1/m")     # less.text is for Dave
    await missions.revoke(given.id)

Decides how the daemon is reached: a program that is part of the node (`drupelet.net_kernel`, the
shell) asks on its own connection, any other opens one for each request. A mission is not its
operator: it gets `NotPermitted`, as whoever broke into it would. (A worker has a runtime when its
code imports `process/`, which this module does: it asks on its own channel, as a worker.)

Rates and spans are written as on the command line (`wire/grant_terms.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.process.current import this_runtime
from drupelet.wire.grant_terms import functions_from_text, rate_from_text, span_from_text

GRANTS_S: Final = 30.0  # as the command line waits

_Socket = str | PathLike[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A grant. `text`: its file, which may be a secret; `sentence`: what it allows."""

    id: str
    sentence: str
    text: str = field(repr=False)
    socket: _Socket = field(default=None, repr=False)

    async def narrow(
        self,
        *,
        to: str = "",
        only: str | Sequence[str] | None = None,
        rate: str | tuple[int, int] | None = None,
        burst: int | None = None,
        concurrent: int | None = None,
        bytes: int | None = None,
        expires: str | int | None = None,
        delegable: int = 0,
    ) -> Grant:
        """One for somebody else, with less in it. This node holds it, or the file has its key.

        Raises: `RemoteError` ("bad_grant") for what this one does not allow, `ValueError`.
        """
        terms = _terms(only, rate, burst, concurrent, bytes, expires, delegable)
        return _made(await _ask(self.socket, "narrow", self.text, to, terms), self.socket)

    async def forget(self) -> None:
        """Keep it no more, as its holder. As `forget`."""
        await forget(self.id, socket=self.socket)

    async def revoke(self) -> dict[str, object]:
        """Take it back, as its issuer. As `revoke`."""
        return await revoke(self.id, socket=self.socket)


async def grant(
    mission: str,
    *,
    to: str = "",
    only: str | Sequence[str] | None = None,
    rate: str | tuple[int, int] | None = None,
    burst: int | None = None,
    concurrent: int | None = None,
    bytes: int | None = None,
    expires: str | int | None = None,
    delegable: int = 0,
    socket: _Socket = None,
) -> Grant:
    """Let somebody who is no member call functions of a mission of this node.

    `to`: a key or a member's name; "": whoever has the file. `rate`: "10/m" or (calls, seconds).
    `bytes`: of one call's arguments. `expires`: "30d" or seconds. `delegable`: how often it can be
    handed on, 0 to 3. `socket`: of the daemon, when it is not the usual one.

    Raises: `ValueError` for a term that cannot be read, `RemoteError` ("badarg") with what is
    wrong, `NoConnection`; `NotPermitted` in a mission.
    """
    terms = _terms(only, rate, burst, concurrent, bytes, expires, delegable)
    return _made(await _ask(socket, "issue", mission, to, terms), socket)


async def accept(text: str, *, socket: _Socket = None) -> Grant:
    """Keep a grant that somebody gave us: this node's calls reach theirs from now on.

    Their node is asked, when it can be reached within 3 s, whether it counts. Raises: `Revoked`,
    `RemoteError` ("bad_grant").
    """
    match await _ask(socket, "accept", text):
        case {"id": str(ident), "sentence": str(sentence)}:
            return Grant(id=ident, sentence=sentence, text=text, socket=socket)
    raise RemoteProtocolError("malformed answer of grants/accept")


async def forget(ident: str, *, socket: _Socket = None) -> None:
    """Keep an accepted grant no more. Whoever has its file may still use it.

    Raises: `RemoteError` ("badarg") when there is none with that id.
    """
    await _ask(socket, "forget", ident)


async def grants(*, socket: _Socket = None) -> dict[str, list[dict[str, object]]]:
    """What is in force: {"issued": [...], "accepted": [...]}, as `drupelet --json grants`."""
    match await _ask(socket, "list"):
        case {"issued": list(issued), "accepted": list(accepted)}:
            return {"issued": issued, "accepted": accepted}
    raise RemoteProtocolError("malformed answer of grants/list")


async def revoke(what: str, *, socket: _Socket = None) -> dict[str, object]:
    """Take back by id, key, member's name or mission; returns when nothing of it runs any more.

    {"calls": of how many something ran, "killed": [mission], "members": {name: whether told},
    "seen": whether it was; False for an id of which no call has come yet, and none will}.
    Raises: `RemoteError` ("badarg") when there is nothing such.
    """
    answer = await _ask(socket, "revoke", what)
    if not isinstance(answer, dict):
        raise RemoteProtocolError("malformed answer of grants/revoke")
    return answer


def _terms(
    only: str | Sequence[str] | None,
    rate: str | tuple[int, int] | None,
    burst: int | None,
    concurrent: int | None,
    size_max: int | None,
    expires: str | int | None,
    delegable: int,
) -> dict[str, object]:
    functions = functions_from_text(only) if isinstance(only, str) else only
    terms: dict[str, object] = {
        "functions": None if functions is None else list(functions),
        "rate": rate_from_text(rate) if isinstance(rate, str) else rate,
        "burst": burst,
        "concurrent": concurrent,
        "bytes": size_max,
        "expires_s": span_from_text(expires) if isinstance(expires, str) else expires,
        "delegable": delegable,
    }
    return {name: value for name, value in terms.items() if value is not None}


def _made(answer: object, socket: _Socket) -> Grant:
    match answer:
        case {"id": str(ident), "text": str(text), "sentence": str(sentence)}:
            return Grant(id=ident, sentence=sentence, text=text, socket=socket)
    raise RemoteProtocolError("malformed answer of grants")


async def _ask(socket: _Socket, function: str, *arguments: object) -> object:
    if socket is None:
        try:
            transport = this_runtime().transport
        except RuntimeError:  # a program without processes
            transport = None
        if transport is not None:
            return await transport.call("", "grants", function, arguments, GRANTS_S)
    from drupelet.client import open_client

    async with open_client(socket) as node:
        return await node.call("", "grants", function, *arguments, timeout=GRANTS_S)
