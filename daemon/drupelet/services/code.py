"""The `code` mission: ships the code of missions to the members, and takes what they ship.

Decides who may and what is told; which version wins is `core/code.py`'s business, the files are
`store/code.py`'s, the worker's side `worker/versions.py`'s.

    ship   operator, own missions   builds the bundle, loads it here, then on all connected members
    load   members                  verifies, loads, keeps; durable before it answers
    list   members, operator        the versions that were shipped here

Rules
- The signer must be a member that this node knows, or this node. The caller need not be the signer.
- It loads here first: code that does not load is not sent to anybody.
- In order: the file is durable as "next"; the worker loads it; the file takes its name; the answer.
  A crash at any point leaves the version before or the new one, and nothing that was acknowledged
  is lost. When the last step fails the worker goes back to what a restart would give it.
- One load at a time, finished even when the caller went away: a worker that has loaded and a disk
  that does not know of it would differ.
- Before a worker starts, the operator's files are looked at: edited since the shipping, they win.

Owns: nothing that runs. Cancellation: a load under way is finished first (TAKE_S at most).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple, Unpack

import trio

from drupelet.core.code import Code, Verdict, Version, bundle_digest
from drupelet.core.missions import MissionSpec
from drupelet.errors import CallError, ConfigError, NotPermitted, RemoteError, RemoteProtocolError
from drupelet.services.calls import Calls
from drupelet.services.mission_sources import (
    InstalledNames,
    files_digest,
    has_files,
    module_name,
    read_source,
)
from drupelet.services.missions import LOAD_S, Missions
from drupelet.store.code import CodeStore, Damaged, Kept
from drupelet.wire.bundles import Bundle, bundle_problem, mission_problem
from drupelet.wire.keys import key_to_text
from drupelet.wire.limits import BUNDLE_MODULES_MAX
from drupelet.wire.signing import Signed, open_bundle, sign_bundle

_log = logging.getLogger("drupelet.code")

MEMBERS: Final = frozenset({"operator", "member", "worker"})
MEMBERS_ONLY: Final = frozenset({"member"})
OWN: Final = frozenset({"operator", "worker"})
LOADS_MAX: Final = 64  # that wait for the one under way
ASK_S: Final = 5.0  # for the numbers of the versions that members have
TAKE_S: Final = 1.5 * LOAD_S  # a worker that was just starting, the load, and the disk
SEND_S: Final = 2 * LOAD_S  # a member's load, and what it waits for
SHIP_TRIES: Final = 3  # when somebody else ships the same mission at the same moment

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


class CodeShipping:
    """Shipped code of one node. `seed`: its identity; `members`: the keys it knows as members."""

    def __init__(
        self,
        missions: Missions,
        calls: Calls,
        *,
        seed: bytes,
        key: bytes,
        state_dir: Path,
        members: Callable[[], Iterable[bytes]],
    ) -> None:
        self._missions = missions
        self._calls = calls
        self._seed = seed
        self._key = key
        self._members = members
        self._code = Code()
        self._store = CodeStore(state_dir / "code")
        self._modules: dict[str, tuple[str, ...]] = {}  # of each shipped mission
        self._taken = InstalledNames()
        self._lock = trio.Lock()
        self._disk = trio.CapacityLimiter(1)

    def register(self) -> None:
        """Put the mission into the whitelist."""
        self._missions.add_system("code", {"list": self.list_versions}, MEMBERS)
        self._missions.add_system("code", {"load": self.load}, MEMBERS_ONLY)
        self._missions.add_system("code", {"ship": self.ship}, OWN)

    def restore(self) -> None:
        """What was shipped before this start. Before the missions run; blocks."""
        kept, damaged = self._store.load(self._taken)
        for each in damaged:
            self._warn_damaged(each)
        specs = {spec.label: spec for spec in self._missions.specs()}
        for found in kept:
            mission = found.bundle.mission
            self._keep(_version(found), found.bundle)
            if mission not in specs:
                try:
                    self._missions.add(_own_worker(mission))
                except ConfigError as error:
                    _log.warning("code_taken mission=%s %s, not running it", mission, error)
                    self._code.drop(mission)
        self._missions.code_for = self.code_for

    # -- for the missions: before a worker starts

    async def code_for(self, spec: MissionSpec) -> str:
        """The file of the bundle that a worker runs instead of the operator's files, or ""."""
        mission = spec.label
        if self._code.current(mission) is None:
            await trio.lowlevel.checkpoint()
            return ""
        files = files_digest(spec)
        if files is not None and self._code.file_wins(mission, files) is not None:
            _log.warning(
                "code_dropped mission=%s, its file changed since code was shipped: using the file",
                mission,
            )
            self._code.drop(mission)
            await self._on_disk(self._store.drop, mission)
            return ""
        kept = await self._on_disk(self._store.read, mission, self._taken)
        if isinstance(kept, Kept):
            return str(kept.path)
        self._warn_damaged(kept or Damaged(Path(mission), "it is not there any more"))
        self._code.drop(mission)
        return ""

    @staticmethod
    def _warn_damaged(damaged: Damaged) -> None:
        _log.warning(
            "code_damaged file=%s %s, ignoring it: the operator's file serves",
            damaged.path,
            damaged.why,
        )

    # -- the mission

    def list_versions(self) -> list[dict[str, object]]:
        """Every mission with shipped code."""
        return [
            {
                "mission": version.mission,
                "sequence": version.sequence,
                "digest": version.digest.hex(),
                "shipper": key_to_text(version.shipper),
                "modules": list(self._modules.get(version.mission, ())),
            }
            for version in self._code.versions()
        ]

    async def load(self, content: bytes, key: bytes, signature: bytes) -> dict[str, object]:
        """Take a bundle. {"state": "loaded" or "known", "digest"}. Raises: `CallError`."""
        if not all(isinstance(part, bytes) for part in (content, key, signature)):
            raise RemoteError("badarg", "load(content, key, signature), each bytes")
        signed = Signed(content, key, signature)
        try:
            bundle = open_bundle(signed, self._taken)
        except RemoteProtocolError as error:
            raise RemoteError("bad_bundle", str(error)) from None
        if key != self._key and key not in set(self._members()):
            raise NotPermitted("the bundle is signed by a key that is no member here")
        return await self._take(signed, bundle)

    async def ship(self, modules: object, mission: str | None = None) -> dict[str, object]:
        """Ship code to all connected members. `modules`: a list of [name, source or None].

        None: as this node has it. Returns {"mission", "digest", "sequence", "nodes": {node: {"ok",
        "state" or "error"}}}. Raises: `CallError`, also when it does not load here.
        """
        named = _named(modules)
        if mission is not None and mission_problem(mission):
            raise RemoteError("badarg", mission_problem(mission))
        draft = await self._draft(named, mission)
        directory = self._calls.directory
        assert directory is not None
        others = directory.connected()
        problem = bundle_problem(draft, self._taken)
        if problem:
            raise RemoteError("bad_bundle", problem)
        for left in reversed(range(SHIP_TRIES)):
            numbers = await self._numbers(others, draft.mission)
            sequence = self._code.next_sequence(draft.mission, numbers)
            bundle = replace(draft, sequence=sequence)
            signed = sign_bundle(self._seed, bundle)
            try:
                own = await self._take(signed, bundle)
                break
            except RemoteError as error:
                if error.kind != "superseded" or not left:
                    raise
        nodes: dict[str, object] = {directory.own_name: own}
        parts = (signed.content, signed.key, signed.signature)
        answers = await self._calls.multicall(others, "code", "load", *parts, timeout=SEND_S)
        nodes |= answers
        return {
            "mission": bundle.mission,
            "digest": bundle_digest(bundle).hex(),
            "sequence": bundle.sequence,
            "nodes": {node: _outcome(answer) for node, answer in nodes.items()},
        }

    async def _numbers(self, others: list[str], mission: str) -> list[int]:
        """The sequence numbers of what the members run for this mission."""
        numbers = []
        for answer in (await self._calls.multicall(others, "code", "list", timeout=ASK_S)).values():
            for each in answer if isinstance(answer, list) else ():
                match each:
                    case {"mission": str(name), "sequence": int(sequence)} if name == mission:
                        numbers.append(sequence)
        return numbers

    # -- what is shipped

    async def _draft(self, named: dict[str, bytes | None], mission: str | None) -> Bundle:
        """The whole code of the mission, as it is here, with the modules that were given."""
        first = next(iter(named))
        spec, mission = self._find(first, mission, given=named[first] is not None)
        base = await self._base(spec, mission)
        modules = dict(base.modules) if base is not None else {}
        for name, source in named.items():
            if source is not None:
                modules[name] = source
            elif name not in modules and name != mission:
                raise _unknown(name)
        load = base.load if base is not None else tuple(named)
        return Bundle(mission=mission, load=load, modules=modules)

    def _find(
        self, name: str, mission: str | None, *, given: bool
    ) -> tuple[MissionSpec | None, str]:
        """Which mission a module belongs to."""
        specs = {spec.label: spec for spec in self._missions.specs()}
        if mission is None and name not in specs:
            mission = next(
                (
                    spec.label
                    for spec in specs.values()
                    if name in map(module_name, spec.modules)
                    or name in self._modules.get(spec.label, ())
                ),
                None,
            )
        mission = mission or name
        if mission not in specs and not given:
            raise _unknown(name)
        return specs.get(mission), mission

    async def _base(self, spec: MissionSpec | None, mission: str) -> Bundle | None:
        """What this node would run for the mission if its worker started now."""
        if spec is None:
            return None
        files = files_digest(spec)
        if self._code.current(mission) is not None and (
            files is None or self._code.file_wins(mission, files) is None
        ):
            kept = await self._on_disk(self._store.read, mission, self._taken)
            if isinstance(kept, Kept):
                return kept.bundle
        if not has_files(spec):
            return None
        modules: dict[str, bytes] = {}
        for module in spec.modules:
            name = module_name(module)
            if name in modules:
                what = f"mission {mission} has two files named {name}.py; rename one to ship it"
                raise RemoteError("bad_bundle", what)
            try:
                modules[name] = read_source(module)
            except OSError as error:
                raise RemoteError("bad_bundle", f"{module}: {error.strerror or error}") from None
        return Bundle(mission=mission, load=tuple(modules), modules=modules)

    # -- loading

    async def _take(self, signed: Signed, bundle: Bundle) -> dict[str, object]:
        if self._lock.statistics().tasks_waiting >= LOADS_MAX:
            raise RemoteError("overloaded", "too many bundles wait to be loaded; try again later")
        async with self._lock:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + TAKE_S):
                return await self._take_alone(signed, bundle)
            raise RemoteError("mission_stuck", f"{bundle.mission} took longer than {TAKE_S:g} s")

    async def _take_alone(self, signed: Signed, bundle: Bundle) -> dict[str, object]:
        mission, digest = bundle.mission, bundle_digest(bundle)
        match self._code.judge(mission, bundle.sequence, digest):
            case Verdict.KNOWN:
                return {"state": "known", "digest": digest.hex()}
            case Verdict.STALE:
                current = self._code.current(mission)
                assert current is not None
                raise RemoteError(
                    "superseded",
                    f"{mission} runs version {current.sequence} here, shipped by "
                    f"{key_to_text(current.shipper)[:16]}, and this is {bundle.sequence}; "
                    "ship it again to put it on top",
                )
            case Verdict.FULL:
                raise RemoteError("overloaded", "too many missions have shipped code here already")
        specs = {spec.label: spec for spec in self._missions.specs()}
        spec = specs.get(mission) or _own_worker(mission)
        replaced = files_digest(spec) or b""
        version = Version(
            mission=mission,
            sequence=bundle.sequence,
            digest=digest,
            shipper=signed.key,
            replaced=replaced,
        )
        try:
            path = await self._on_disk(self._store.prepare, mission, signed, replaced)
            start = await self._missions.load_code(spec, str(path), digest)
        except (CallError, ConfigError, OSError) as error:
            await self._on_disk(self._store.discard, mission)
            raise _as_call_error(error) from None
        try:
            await self._on_disk(self._store.commit, mission)
        except OSError as error:
            self._missions.kill(spec)
            raise _as_call_error(error) from None
        self._keep(version, bundle)
        if self._missions.start_count(spec) != start:  # it ended meanwhile, and began with the old
            self._missions.kill(spec)
        _log.info(
            "code_loaded mission=%s sequence=%d digest=%s shipper=%s",
            mission,
            bundle.sequence,
            digest.hex()[:12],
            key_to_text(signed.key)[:16],
        )
        return {"state": "loaded", "digest": digest.hex()}

    def _keep(self, version: Version, bundle: Bundle) -> None:
        self._code.keep(version)
        self._modules[version.mission] = tuple(sorted(bundle.modules))

    async def _on_disk(
        self, function: Callable[[Unpack[_Args]], _Result], *args: *_Args
    ) -> _Result:
        return await trio.to_thread.run_sync(function, *args, limiter=self._disk)


def _version(kept: Kept) -> Version:
    return Version(
        mission=kept.bundle.mission,
        sequence=kept.bundle.sequence,
        digest=bundle_digest(kept.bundle),
        shipper=kept.signed.key,
        replaced=kept.replaced,
    )


def _own_worker(mission: str) -> MissionSpec:
    """A worker for code of which this node has no mission: members may spawn its functions."""
    return MissionSpec(name=mission, modules=(mission,), exports=(), source="")


def _named(modules: object) -> dict[str, bytes | None]:
    """The argument of `ship`. Raises: `RemoteError`."""
    named: dict[str, bytes | None] = {}
    if not isinstance(modules, list) or not 0 < len(modules) <= BUNDLE_MODULES_MAX:
        raise RemoteError("badarg", f"ship 1 to {BUNDLE_MODULES_MAX} modules")
    for each in modules:
        match each:
            case [str(name), bytes() | None as source] if name not in named:
                named[name] = source
            case _:
                raise RemoteError("badarg", "ship(modules): a list of [name, source or None]")
    return named


def _unknown(name: str) -> RemoteError:
    return RemoteError(
        "undef", f"no mission or module {name[:80]!r} here; name a file: drupelet nl {name[:80]}.py"
    )


def _outcome(answer: object) -> dict[str, object]:
    if isinstance(answer, CallError):
        kind = answer.kind if isinstance(answer, RemoteError) else type(answer).__name__
        message = answer.message if isinstance(answer, RemoteError) else str(answer)
        return {"ok": False, "error": {"kind": kind, "message": message}}
    return {"ok": True, **(answer if isinstance(answer, dict) else {})}


def _as_call_error(error: Exception) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, ConfigError):
        return RemoteError("bad_bundle", str(error))
    return RemoteError("not_durable", f"the code cannot be kept: {error}")
