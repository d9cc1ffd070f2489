"""The verbs of grants: ``grant accept forget narrow grants revoke``.

Decides how a grant leaves and enters this computer: as a file of mode 0600 that replaces no other,
as text, or as a QR code. Everything else the daemon decides (`services/grants.py`).

- A file is made before the grant is: a disk that is full, or a name that is taken, costs none.
- Standard output has the grant or what a script wants; the sentence is beside it for the person.
- With --json and without --out the text is in the document; with --out it is in the file only,
  since it may be a secret and documents end up in logs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TextIO

from drupelet.cli import output, qr
from drupelet.cli.grammar import Request, UsageError
from drupelet.cli.output import Failed
from drupelet.client.blocking import connect
from drupelet.errors import EXIT_DONE, RemoteError, RemoteProtocolError
from drupelet.wire.grant_files import PREFIX, decode_grant_file
from drupelet.wire.grant_terms import functions_from_text, rate_from_text, span_from_text
from drupelet.wire.limits import GRANT_FILE_CHARS_MAX

GRANTS_S: Final = 30.0  # revoking waits for what ends slowly; the others take as long as a disk
_STANDARD: Final = "-"  # input or output
_NUMBER_DIGITS_MAX: Final = 9


def grant(request: Request) -> int:
    """``grant MISSION [--to KEY] ... -o FILE | --text | --qr``."""
    return _make(request, "issue", request.argument(0))


def narrow(request: Request) -> int:
    """``narrow FILE [--to KEY] ... -o FILE | --text | --qr``."""
    return _make(request, "narrow", read_grant(request.argument(0), request))


def accept(request: Request) -> int:
    """``accept FILE|-``."""
    answer = _ask(request, "accept", read_grant(request.argument(0), request))
    match answer:
        case {"name": str(name), "id": str(ident), "sentence": str(sentence), **rest}:
            pass
        case _:
            raise RemoteProtocolError("malformed answer of grants/accept")
    if request.json:
        output.document(answer)
    else:
        output.line(output.plain(sentence, None))
        output.line(f"id {output.plain(ident)}")
        node = output.plain(name)
        told = "" if rest.get("asked") else f", though {node} could not be asked about it"
        if rest.get("by_relay"):
            told = f"; {node} is reached by the relay, and says at the first call if it takes it"
        output.note(f"kept{told}; now: drupelet call {node} MISSION FUNCTION")
    return EXIT_DONE


def forget(request: Request) -> int:
    """``forget ID``."""
    answer = _ask(request, "forget", request.argument(0))
    match answer:
        case {"name": str(), "id": str(), "sentence": str(sentence)}:
            pass
        case _:
            raise RemoteProtocolError("malformed answer of grants/forget")
    if request.json:
        output.document(answer)
    else:
        output.line(f"forgotten: {output.plain(sentence, None)}")
    return EXIT_DONE


def grants(request: Request) -> int:
    """``grants``."""
    answer = _ask(request, "list")
    match answer:
        case {"issued": list(issued), "accepted": list(accepted)}:
            pass
        case _:
            raise RemoteProtocolError("malformed answer of grants/list")
    if request.json:
        output.document(answer)
        return EXIT_DONE
    _show("issued by this node:", issued)
    _show("accepted from others:", accepted)
    if not issued and not accepted:
        output.note("no grants; `drupelet grant MISSION --to KEY -o FILE` makes one")
    return EXIT_DONE


def revoke(request: Request) -> int:
    """``revoke ID|KEY|NAME|MISSION``."""
    answer = _ask(request, "revoke", request.argument(0))
    match answer:
        case {"calls": int(calls), "killed": list(killed), "members": dict(members), **rest}:
            pass
        case _:
            raise RemoteProtocolError("malformed answer of grants/revoke")
    if request.json:
        output.document(answer)
        return EXIT_DONE
    ended = {0: "no call was", 1: "one call was"}.get(calls, f"{calls} calls were")
    if rest.get("seen") is False:
        output.line("revoked; it was not seen here yet, and will be refused when it comes")
    else:
        output.line(f"revoked; {ended} under way")
    if killed:
        output.line(f"ended and started anew: {output.plain(killed, None)}")
    untold = sorted(str(name) for name, told in members.items() if told is not True)
    if untold:
        output.note(
            f"not told yet: {output.plain(untold, None)}; what they let in of these grants "
            "ends when they are linked with this node again"
        )
    return EXIT_DONE


# -- making one


def _make(request: Request, function: str, what: str) -> int:
    """Issue or narrow, and put it where it goes."""
    place = request.options.get("out")
    wanted = {name for name in ("out", "text", "qr") if name in request.options}
    if place == _STANDARD:
        place = None
        wanted.add("text")
    if not wanted and not request.json:
        raise UsageError("say where the grant goes: -o FILE, --text or --qr", request.verb.name)
    if request.json and ("text" in wanted or "qr" in wanted):
        raise UsageError(
            "with --json the text is in the document, or in the file of -o", request.verb.name
        )
    terms = read_terms(request)
    with _new_file(place) as file:
        answer = _ask(request, function, what, request.options.get("to", ""), terms)
        match answer:
            case {"id": str(ident), "text": str(text), "sentence": str(sentence)}:
                pass
            case _:
                raise RemoteProtocolError(f"malformed answer of grants/{function}")
        if file is not None:
            _fill(file, text, ident, str(place))
    if request.json:
        shown = {"id": ident, "sentence": sentence}
        output.document(shown | ({"text": text} if place is None else {"file": place}))
        return EXIT_DONE
    # Where the grant itself is on standard output, the words about it are not.
    tell = output.note if "text" in wanted or "qr" in wanted else output.line
    if "text" in wanted:
        output.write(text)
    else:
        tell(output.plain(sentence, None))
    if "qr" in wanted:
        _draw(text)
    tell(f"id {output.plain(ident)}")
    if function == "issue":
        with contextlib.suppress(RemoteProtocolError):
            warn_of_loopback(host for host, _ in decode_grant_file(text).addresses)
    if place is not None:
        tell(f"{output.plain(place, None)} is for them; on their node: drupelet accept FILE")
    return EXIT_DONE


def warn_of_loopback(hosts: Iterable[object]) -> None:
    """Tell the operator of a node that no other computer can reach, while it can be mended."""
    found = [str(host) for host in hosts]
    if found and all(host.startswith("127.") or host == "::1" for host in found):
        output.note(
            "this node listens on this computer only; for others to reach it, start it with "
            "--listen 0.0.0.0, or set [link] listen"
        )


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _NUMBER_DIGITS_MAX:
        raise ValueError(f"{text[:40]!r} is no whole number")
    return int(text)


_READERS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {  # option -> term
    "only": ("functions", functions_from_text),
    "rate": ("rate", rate_from_text),
    "expires": ("expires_s", span_from_text),
    "burst": ("burst", _number),
    "concurrent": ("concurrent", _number),
    "bytes": ("bytes", _number),
    "delegable": ("delegable", _number),
}


def read_terms(request: Request) -> dict[str, object]:
    """The options as `services/grants.py` takes them. Raises: `UsageError`."""
    terms: dict[str, object] = {}
    for option, (term, reader) in _READERS.items():
        text = request.options.get(option)
        if text is None:
            continue
        try:
            terms[term] = reader(text)
        except ValueError as error:
            raise UsageError(f"--{option}: {error}", request.verb.name) from None
    return terms


@contextlib.contextmanager
def _new_file(place: str | None) -> Iterator[TextIO | None]:
    """A new file of 0600 that is gone again when the body fails. Raises: `Failed`."""
    if place is None:
        yield None
        return
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Failed(
            f"{place} is there already", mend="name another file; a grant replaces none"
        ) from None
    except OSError as error:
        raise Failed(
            f"cannot make {place}: {error.strerror}", mend="name a file in a folder of yours"
        ) from None
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            yield file
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(place)
        raise


def _fill(file: TextIO, text: str, ident: str, place: str) -> None:
    try:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise Failed(
            f"cannot write {place}: {error.strerror}; nobody got the grant",
            mend=f"drupelet revoke {ident}",
        ) from None


def _draw(text: str) -> None:
    """Only the line that counts; what people read would double the code's size."""
    body = next((line for line in text.splitlines() if line.startswith(PREFIX)), "")
    columns_max = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0
    try:
        lines = qr.draw(body)
    except ValueError as error:
        output.note(f"{error}, and the grant has more; here is its text")
        output.write(text)
        return
    if columns_max and len(lines[0]) > columns_max:
        output.note(f"the code needs {len(lines[0])} columns of {columns_max}; here is its text")
        output.write(text)
        return
    for line in lines:
        output.line(qr.in_colours(line) if columns_max else line)


# -- taking one


def read_grant(word: str, request: Request) -> str:
    """The text of a file. Raises: `Failed`."""
    if word.startswith(PREFIX):
        raise UsageError(
            f"that is a grant's text, and FILE its file; - reads it: {request.verb.name} -",
            request.verb.name,
        )
    try:
        # One character more than a file has: the daemon says what is too much.
        if word == _STANDARD:
            return sys.stdin.read(GRANT_FILE_CHARS_MAX + 1)
        with open(word, encoding="utf-8", errors="replace") as file:
            return file.read(GRANT_FILE_CHARS_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", "") or "it is no text"
        raise Failed(
            f"cannot read {word}: {what}", mend="name the file that somebody gave you"
        ) from None


def _show(heading: str, rows: list[object]) -> None:
    if not rows:
        return
    output.line(heading)
    for row in rows:
        match row:
            case {"id": str(ident), "sentence": str(sentence), **rest}:
                left = rest.get("left_s")
                ends = f" ({output.span(left)} left)" if isinstance(left, int | float) else ""
                output.line(f"  {output.plain(ident)}  {output.plain(sentence, None)}{ends}")
            case _:
                raise RemoteProtocolError("malformed answer of grants/list")


def _ask(request: Request, function: str, *arguments: object) -> object:
    with connect(request.socket) as node:
        try:
            return node.call("", "grants", function, *arguments, timeout=GRANTS_S)
        except RemoteError as error:
            if error.kind != "badarg":
                raise
            # Not a function's signature was missed, which "badarg" stands for elsewhere.
            raise RemoteError("bad_grant", error.message) from None
