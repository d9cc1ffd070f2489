"""``pair``: a code on one node, typed or scanned on the other.

Decides how a code reaches a person and what each end of a pairing is called. Who may try what, the
daemons decide (`services/pairing.py`, `services/joining.py`).

- The code is on the screen and in no file: with --json too, since who asks for it is to show it.
- Ending the command takes the code back.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from drupelet.cli import output, qr
from drupelet.cli.grammar import Request, UsageError
from drupelet.cli.grants import read_terms, warn_of_loopback
from drupelet.client.blocking import connect
from drupelet.errors import EXIT_DONE, NotPermitted, RemoteError, RemoteProtocolError
from drupelet.wire.keys import key_prefix
from drupelet.wire.limits import PAIR_CONFIRM_S, PAIR_S

JOIN_S: Final = 30.0  # the daemon gives up after 20
WAIT_S: Final = PAIR_S + PAIR_CONFIRM_S + 5.0
NEW_CODE: Final = "get a new code: `drupelet pair` on the other node"
_MENDS: Final = {  # by the kind of a RemoteError
    "bad_code": "type the eight letters as the other node shows them",
    "bad_host": "give HOST:PORT, as the other node shows it beside the code",
    "code_gone": NEW_CODE,
    "code_spent": NEW_CODE,
    "cookie_refused": "give the other node a random cookie (docs/OPERATING.md), and pair again",
    "cookie_unknown": "write it into the cookie file and restart the node, then pair again",
    "environment": "set the same [node] environment on both, or use a random cookie there",
    "name_taken": "give one of the two another [node] name and restart it",
    "nobody_found": "is `drupelet pair` running there, is it the same network, does it let "
    "multicast through (guest Wi-Fi does not)? Else, and with `drupelet run`, which does not look: "
    "--host HOST:PORT. On another network: a relay that both are at (docs/RELAY.md)",
    "nobody_waits": "run `drupelet pair` there (a code is good for five minutes and for one try), "
    "and look at the letters; if it runs: --host HOST:PORT, as it shows it",
    "other_relay": "set [relay] url here to the same, or to one kept in step with it "
    "(docs/RELAY.md)",
    "own_code": "type it on the other node",
    "pair_slow": "try again with a new code",
    "relay_busy": "wait so long, or pair on one network",
    "relay_down": "this node's log says why (`relay_down`); on one network no relay is needed",
    "relay_silent": "does that node still run, and is it at its relay? Then a new code: "
    "`drupelet pair` there",
    "pair_version": "install the same version of drupelet on both: `drupelet version`",
    "several_wait": "say which: --host HOST:PORT",
    "wrong_code": f"{NEW_CODE}; one wrong try burns a code",
}
_BURNT_BY_RELAY: Final = (
    "`drupelet pair` makes a new one. If it happens again, somebody at the relay spoils it: its "
    "owner can shut that key out, `drupelet-relay deny KEY`"
)
_OUTCOMES: Final = {  # what became of a code that was shown
    "burnt": ("somebody tried a wrong code, and it is burnt", "`drupelet pair` makes a new one"),
    "expired": ("nobody came in five minutes", "`drupelet pair` makes a new code"),
    "cancelled": ("the code was taken back, or a newer one took its place", ""),
    "unconfirmed": (
        "the code was right, but the other node did not say that it kept what it got",
        "look at its screen and its log, and pair again",
    ),
}


_WAYS: Final = {"link": " by a direct link", "relay": " through the relay"}


class PairingFailed(RemoteError):
    """Why the two are not paired, and what to do."""

    def __init__(self, kind: str, message: str, mend: str) -> None:
        super().__init__(kind, message)
        self.mend = mend


def pair(request: Request) -> int:
    """``pair [CODE] [--host HOST:PORT] [--grant MISSION ...]``."""
    code = request.argument(0)
    given = {"grant", "only", "rate", "burst", "concurrent", "bytes", "expires", "delegable"}
    given &= request.options.keys()
    if code:
        if given:
            raise UsageError(
                f"--{min(given)} is for the node that shows the code", request.verb.name
            )
        return _join(request, code)
    if "host" in request.options:
        raise UsageError("--host goes with a CODE", request.verb.name)
    if given and "grant" not in given:
        raise UsageError(f"--{min(given)} goes with --grant MISSION", request.verb.name)
    return _show(request)


# -- the side that shows a code


def _show(request: Request) -> int:
    with connect(request.socket) as node:
        arguments = [request.options.get("grant", ""), read_terms(request)]
        shown = _ask(node.call, "open", *arguments, timeout=10.0)
        match shown:
            case {
                "code": str(code),
                "invitation": str(invitation),
                "key": str(key),
                "name": str(name),
                "addresses": list(addresses),
                "gives": str(gives),
                "relay": str(relay),
                "relay_problem": str(problem),
            }:
                pass
            case _:
                raise RemoteProtocolError("malformed answer of pair/open")
        if request.json:
            output.document(shown)
        else:
            _draw(invitation)
            places = [_place(each) for each in addresses]
            output.line(f"On the other node:  drupelet pair {output.plain(code)}")
            if places:
                output.line(f"or, if it finds nobody:  ... --host {' or '.join(places)}")
                warn_of_loopback(host for host, _ in addresses)
            if relay:
                output.line(f"From another network, too: {output.plain(relay, None)} knows of it.")
            elif problem:
                output.note(
                    "only from this network: the relay does not show this code: "
                    f"{output.plain(problem, None)}"
                )
            what = "becomes a member" if gives == "member" else "gets the grant"
            output.line(
                f"This is {output.plain(name)} ({key_prefix(output.plain(key))}). Who types it "
                f"{what}; five minutes, one try. Ctrl-C takes it back."
            )
        outcome = _ask(node.call, "wait", timeout=WAIT_S)
    match outcome:
        case {"outcome": "paired", "by": str(by), "name": str(name), "key": str(key)}:
            if request.json:
                output.document(outcome)
            else:
                output.line(f"paired with {_who(name, key)}{_WAYS.get(by, '')}")
            return EXIT_DONE
        case {"outcome": str(word), "by": str(by), "name": str(name), "key": str(key)}:
            what, mend = _OUTCOMES.get(word, (word, ""))
            whose = f": {_who(name, key)}{_WAYS.get(by, '')}" if key else ""
            if word == "burnt" and by == "relay":
                mend = _BURNT_BY_RELAY.replace("KEY", output.plain(key))
            raise PairingFailed(word, f"{what}{whose}", mend)
    raise RemoteProtocolError("malformed answer of pair/wait")


def _draw(invitation: str) -> None:
    """The QR code, where a person sees it and it fits."""
    if not sys.stdout.isatty():
        return
    lines = qr.draw(invitation)
    if len(lines[0]) <= os.get_terminal_size(sys.stdout.fileno()).columns:
        for line in lines:
            output.line(qr.in_colours(line))


def _place(address: object) -> str:
    match address:
        case [str(host), int(port)]:
            host = output.plain(host)
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    raise RemoteProtocolError("malformed answer of pair/open")


# -- the side that has it


def _join(request: Request, code: str) -> int:
    if not request.json:
        output.note("looking for the node that shows this code...")
    with connect(request.socket) as node:
        answer = _ask(node.call, "join", code, request.options.get("host", ""), timeout=JOIN_S)
    match answer:
        case {
            "name": str(name),
            "key": str(key),
            "by": str(by),
            "addresses": list(addresses),
            "gives": str(gives),
            "linked": bool(linked),
            "sentence": str(sentence),
        }:
            pass
        case _:
            raise RemoteProtocolError("malformed answer of pair/join")
    if request.json:
        output.document(answer)
        return EXIT_DONE
    output.line(f"paired with {_who(name, key)}{_WAYS.get(by, '')}")
    if gives == "grant":
        output.line(output.plain(sentence, None))
    elif linked:
        output.line("both are members of one cluster now: drupelet nodes")
    elif by == "relay":
        tried = ", ".join(_place(each) for each in addresses) or "it named none"
        output.note(
            f"the cookie is here, but no address of {output.plain(name)} answers ({tried}), nor "
            "does it reach this node: members need a direct link. Open the port of one of the two "
            "in its router, and name it in the other's [link] peers; or, for calls through the "
            "relay, pair again with `drupelet pair --grant MISSION` there"
        )
    else:
        output.note(
            f"the cookie is here, the link is not up yet: `drupelet why {output.plain(name)}`"
        )
    return EXIT_DONE


def _who(name: str, key: str) -> str:
    return f"{output.plain(name)} ({key_prefix(output.plain(key))})"


def _ask(call: object, function: str, *arguments: object, timeout: float) -> object:
    try:
        return call("", "pair", function, *arguments, timeout=timeout)  # type: ignore[operator]
    except RemoteError as error:
        if error.kind == "badarg":  # not of a function's signature, as elsewhere
            raise RemoteError("bad_grant", error.message) from None
        mend = _MENDS.get(error.kind)
        if mend is None:
            raise
        raise PairingFailed(error.kind, error.message, mend) from None
    except NotPermitted:
        raise PairingFailed("code_gone", "the other node took the code back", NEW_CODE) from None
