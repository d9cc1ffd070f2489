"""``log``: who from outside called what, and whether somebody changed the list.

Decides how entries of the audit log are shown; what is in them, and how a change shows,
`services/audit.py` and `store/audit.py` decide.

- A line for each entry, newest last: when, what, who, mission/function, how it ended.
- Times are this machine's local time. Before the clock was set (a Pi has none) an entry has the
  time since its machine's start.
- A caller whose key belongs to a node that we know is shown by that name, else by the beginning of
  its key. Strangers chose function names: what cannot be printed is replaced.
- ``--check`` gives the last hash. Only who kept an older one elsewhere can see that the end was cut
  off or that all was written anew, so ``--hash`` asks for it.
"""

from __future__ import annotations

import time
from typing import Final

from drupelet.cli import output
from drupelet.cli.grammar import Request, UsageError
from drupelet.client.blocking import BlockingClient, connect
from drupelet.errors import EXIT_DONE, EXIT_FAILED, RemoteProtocolError
from drupelet.wire.grant_terms import span_from_text

LOG_S: Final = 30.0  # 32 MiB are read from a slow card
COUNT: Final = 1_000
COUNT_MAX: Final = 10_000
KNOWN_S: Final = 1_735_689_600.0  # the year 2025: no clock that was set is before this program
KEY_CHARS: Final = 8
_HASH_CHARS: Final = 64
_CUT: Final = (
    "nothing in the log can show that its end was cut off, or all of it written anew: write this "
    "hash down elsewhere, and type later: drupelet log --check --hash HASH"
)
_GONE: Final = (
    "no entry has that hash: the end was cut off, or all was written anew, or it was so long ago "
    "that its file was removed in its turn"
)


def log(request: Request) -> int:
    """``log [MISSION] [--since T] [--count N]``, ``log --check [--hash HASH]``."""
    if "check" in request.options or "hash" in request.options:
        return _check(request)
    count = request.integer("count", COUNT, 1, COUNT_MAX)
    since_s = _since(request)
    with connect(request.socket) as node:
        entries = node.call("", "audit", "read", request.argument(0), since_s, count, timeout=LOG_S)
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise RemoteProtocolError("malformed answer of audit/read")
        names = {} if request.json or not entries else _names(node)
    if request.json:
        output.document(entries)
        return EXIT_DONE
    for text in _lines([_cells(entry, names) for entry in entries]):
        output.line(text)
    if not entries:
        output.note("no entries; calls by grants, and grants themselves, are written here")
    elif len(entries) == count:
        output.note(f"the last {count}; --count N shows more, --json all fields")
    return EXIT_DONE


def _since(request: Request) -> int | None:
    text = request.options.get("since")
    if text is None:
        return None
    try:
        return span_from_text(text)
    except ValueError as error:
        raise UsageError(f"--since: {error}", request.verb.name) from None


# -- entries


def _names(node: BlockingClient) -> dict[str, str]:
    """key -> name, of the nodes that this one knows."""
    found = node.call("", "node", "nodes")
    rows = found if isinstance(found, list) else []
    return {
        str(row["key"]): str(row["name"])
        for row in rows
        if isinstance(row, dict) and row.get("key") and row.get("name")
    }


def _cells(entry: dict[str, object], names: dict[str, str]) -> tuple[str, ...]:
    match entry:
        case {
            "unix_s": float(unix_s),
            "up_s": float(up_s),
            "what": str(what),
            "caller": str(caller),
            "mission": str(mission),
            "function": str(function),
            "outcome": str(outcome),
            "span_ms": int(span_ms),
            "count": int(count),
            "note": str(note),
        }:
            pass
        case _:
            raise RemoteProtocolError("malformed entry of audit/read")
    called = f"{mission}/{function}" if function else mission
    texts = (_when(unix_s, up_s), what, _who(caller, names), called, outcome)
    detail = note
    if what == "call":
        detail = f"{span_ms} ms, grant {note}"
    elif what == "refused":
        detail = f"{count} times more" if count > 1 else ""
    return (*(output.plain(text) for text in texts), output.plain(detail, None))


def _when(unix_s: float, up_s: float) -> str:
    if unix_s >= KNOWN_S:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))
    minutes, seconds = divmod(int(up_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} after start"


def _who(caller: str, names: dict[str, str]) -> str:
    if caller in names:
        return names[caller]
    return f"{caller[:KEY_CHARS]}…" if len(caller) > 3 * KEY_CHARS else caller


def _lines(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width
        ).rstrip()
        for row in rows
    ]


# -- whether it was changed


def _check(request: Request) -> int:
    remembered = request.options.get("hash", "").strip().lower()
    if "hash" in request.options:
        try:
            good = len(remembered) == _HASH_CHARS and len(bytes.fromhex(remembered)) == 32
        except ValueError:
            good = False
        if not good:
            what = f"--hash: {remembered[:80]!r} is no hash; --check prints one of 64 characters"
            raise UsageError(what, request.verb.name)
    with connect(request.socket) as node:
        answer = node.call("", "audit", "verify", remembered, timeout=LOG_S)
    match answer:
        case {
            "good": bool(good),
            "hash": str(last),
            "entries": int(entries),
            "broken": str(broken),
            "remembered": None | bool() as found,
        }:
            pass
        case _:
            raise RemoteProtocolError("malformed answer of audit/verify")
    code = EXIT_DONE if good and found is not False else EXIT_FAILED
    if request.json:
        output.document(answer)
        return code
    if not good:
        output.line(f"changed: {output.plain(broken, None)}")
        output.note("mend: copy the folder audit of the node's state_dir before anything else")
    elif found is False:
        output.line(f"changed: {_GONE}")
    else:
        since = " and no entry after that hash was lost" if found else ""
        output.line(f"unchanged, as far as it goes: {entries} entries{since}")
    output.line(f"last hash {output.plain(last, None)}")
    if code == EXIT_DONE and found is None:
        output.note(_CUT)
    return code
