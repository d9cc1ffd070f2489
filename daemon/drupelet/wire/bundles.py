"""Bundles: the code of one mission, signed, as it is shipped from node to node (`drupelet nl`).

Decides the bytes of a bundle and what may be in one. A bundle is the *whole* code of a mission, a
deterministic CBOR map:

    {"load": [module, ...], "mission": text, "modules": {module: source bytes}, "sequence": int,
     "version": 1}

`load` names the modules that are executed, in order; the others are there to be imported by them.
`wire/signing.py` signs and opens it; this file needs no libsodium, so that a worker can read a
bundle without it.

Rules
- A module name is one ASCII identifier of at most 63 characters, without a leading underscore:
  never a path, an extension, an archive or a package (no dots). Words that mean something to an
  interpreter or a file system (`site`, ``NUL``...) are refused, and with `taken` also the names of
  the standard library and of installed packages: a shipped module stands in for none of them.
- At most BUNDLE_MODULES_MAX modules, BUNDLE_MODULE_BYTES_MAX bytes each, BUNDLE_SOURCE_BYTES_MAX in
  all. The size is looked at before anything is decoded.
- `sequence` orders the versions of a mission over the cluster (a Lamport clock, core/code.py), so
  that a bundle that somebody kept does not bring old code back.
- The digest of a bundle whose `load` are the operator's files is the digest of those files
  (`sources_of`): the same code has one digest, however it came.
- A bundle that is kept is a file ``{"content": bytes, ...}`` (store/code.py), from which a worker
  takes the content (`content_of_kept`); the daemon has checked it by then.

References: RFC 8949, 4.2.1; Lamport, "Time, clocks, and the ordering of events" (1978).
Rejected: zip and tar (paths, links, modes, bombs); packages with dots (a shipped `a.b` needs an
`a`, whose is it?); byte code (marshal is no boundary, and no two versions of Python agree on it); a
signature per module (a mixture of two versions would verify).
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire.codec import dumps, loads, loads_canonical
from drupelet.wire.limits import (
    BUNDLE_BYTES_MAX,
    BUNDLE_MODULE_BYTES_MAX,
    BUNDLE_MODULES_MAX,
    BUNDLE_SOURCE_BYTES_MAX,
    NAME_CHARS_MAX,
)

VERSION: Final = 1
_SEQUENCE_TOP: Final = 2**62  # no counter gets there; a liar's would end all shipping

_MODULE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_MISSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)

# What Python runs by itself when it finds it, and what file systems keep for devices.
_RESERVED: Final = frozenset(
    {
        "drupelet", "site", "sitecustomize", "usercustomize",
        "con", "prn", "aux", "nul", "device",
        *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)),
    }
)  # fmt: skip
# Served by the daemon itself; a bundle for them would have no worker.
RESERVED_MISSIONS: Final = frozenset({"code", "names", "node", "objects", "process", "sessions"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The whole code of a mission."""

    mission: str
    load: tuple[str, ...]
    modules: Mapping[str, bytes]
    sequence: int = 1


def module_problem(name: object, taken: Container[str] = ()) -> str:
    """Why `name` cannot be the name of a shipped module, or ""."""
    if not isinstance(name, str) or not _MODULE.fullmatch(name):
        return (
            f"{_shown(name)} is no module name; use letters, digits and _, a letter first: "
            "no path, no dots, no extension"
        )
    if len(name) > NAME_CHARS_MAX:
        return f"{_shown(name)} is too long for a module name; use at most {NAME_CHARS_MAX}"
    if name.lower() in _RESERVED:
        return f"{name!r} cannot be the name of a shipped module; rename the file"
    if name in taken:
        return f"{name!r} would stand in for Python's or an installed module; rename the file"
    return ""


def mission_problem(name: object) -> str:
    """Why `name` cannot be the mission of a bundle, or ""."""
    if not isinstance(name, str) or not _MISSION.fullmatch(name) or len(name) > NAME_CHARS_MAX:
        return f"{_shown(name)} is no mission name; use letters, digits, - and _"
    if name in RESERVED_MISSIONS or name.lower() in _RESERVED:
        return f"{name!r} cannot be the name of a shipped mission"
    return ""


def bundle_problem(bundle: Bundle, taken: Container[str] = ()) -> str:
    """What is wrong with a bundle, in one sentence, or ""."""
    problem = mission_problem(bundle.mission)
    if problem:
        return problem
    count = len(bundle.modules)
    if not 0 < count <= BUNDLE_MODULES_MAX:
        return f"{count} modules; a bundle has 1 to {BUNDLE_MODULES_MAX}"
    for name, source in bundle.modules.items():
        problem = module_problem(name, taken)
        if problem:
            return problem
        if len(source) > BUNDLE_MODULE_BYTES_MAX:
            return (
                f"module {name} has {len(source)} bytes; at most {BUNDLE_MODULE_BYTES_MAX} are "
                "shipped"
            )
    size = sum(map(len, bundle.modules.values()))
    if size > BUNDLE_SOURCE_BYTES_MAX:
        return f"the modules have {size} bytes; at most {BUNDLE_SOURCE_BYTES_MAX} in all"
    if not bundle.load or len(set(bundle.load)) != len(bundle.load):
        return "no module to load, or one twice"
    missing = [name for name in bundle.load if name not in bundle.modules]
    if missing:
        return f"{_shown(missing[0])} is to be loaded and not in the bundle"
    if not 0 < bundle.sequence < _SEQUENCE_TOP:
        return "the sequence number is out of range"
    return ""


def _shown(name: object) -> str:
    """A stranger's text, for a message."""
    return repr(name)[:80] if isinstance(name, str) else f"a {type(name).__name__}"


def sources_of(bundle: Bundle) -> list[bytes]:
    """What its digest is of: the modules to load in order, then the others by name."""
    others = sorted(set(bundle.modules) - set(bundle.load))
    return [bundle.modules[name] for name in (*bundle.load, *others)]


def encode_bundle(bundle: Bundle) -> bytes:
    """The content that is signed. Raises: `ValueError` with what is wrong, for a person."""
    problem = bundle_problem(bundle)
    if problem:
        raise ValueError(problem)
    return dumps(
        {
            "load": list(bundle.load),
            "mission": bundle.mission,
            "modules": dict(bundle.modules),
            "sequence": bundle.sequence,
            "version": VERSION,
        }
    )


def decode_bundle(content: bytes, taken: Container[str] = ()) -> Bundle:
    """The reverse. Raises: `RemoteProtocolError` for anything else, with what is wrong."""
    if len(content) > BUNDLE_BYTES_MAX:
        raise RemoteProtocolError(f"bundle of {len(content)} bytes; at most {BUNDLE_BYTES_MAX}")
    match loads_canonical(content):
        case {
            "load": list(load),
            "mission": str(mission),
            "modules": dict(modules),
            "sequence": int(sequence),
            "version": int(version),
            **rest,
        } if not rest and version is not True and sequence is not True and version == VERSION:
            if not all(isinstance(source, bytes) for source in modules.values()):
                raise RemoteProtocolError("bundle: a module is not bytes")
            if not all(isinstance(name, str) for name in load):
                raise RemoteProtocolError("bundle: a name to load is not text")
            bundle = Bundle(mission=mission, load=tuple(load), modules=modules, sequence=sequence)
            problem = bundle_problem(bundle, taken)
            if problem:
                raise RemoteProtocolError(f"bundle: {problem}")
            return bundle
    raise RemoteProtocolError("malformed bundle")


def content_of_kept(data: bytes) -> bytes:
    """The content in the bytes of a kept bundle's file. Raises: `RemoteProtocolError`."""
    match loads(data):
        case {"content": bytes(content)}:
            return content
    raise RemoteProtocolError("malformed file of a kept bundle")
