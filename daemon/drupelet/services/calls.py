"""Calls: the one door. Every request, from whatever ring, is looked up and permitted here.

    authenticate (done by the channel) -> look up mission and function -> right -> deliver -> reply

Decides, for each call that comes in on an endpoint: is it for this node or another; does the
function exist; may this ring call it; is the code the caller has the code that runs; and delivers
it inline (system missions), to a worker, or to another node. Offers `call`, `cast`, `call_many` and
`multicall` to programs inside the daemon; the same calls from outside come in as frames.

Rules: arguments are decoded only where they are used. A call runs at most once: nothing here
retries one that may have been delivered. A missing name and a forbidden one read alike to anyone
who is neither member nor operator.

Owns: one task per asynchronous system function under way, in the nursery given.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from types import CoroutineType
from typing import cast

import trio

from drupelet.errors import (
    CallError,
    CodeMismatch,
    NoConnection,
    NotPermitted,
    NotSendable,
    RemoteError,
    RemoteProtocolError,
    Timeout,
)
from drupelet.services.directory import Border, Directory, Keeper, StrangerDoor
from drupelet.services.endpoint import Endpoint
from drupelet.services.inline import (
    as_call_error,
    encode_chunks,
    join_answers,
    run_inline,
    run_many,
    run_many_in_turn,
)
from drupelet.services.missions import Export
from drupelet.services.sending import too_large
from drupelet.services.streams import Stream
from drupelet.services.whitelist import STRANGERS_OWN, worker_of
from drupelet.wire import frames
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import (
    CALL_HEADER,
    CALL_HEADER_BYTES,
    DIGEST_BYTES,
    FLAG_DIGEST,
    FLAG_MANY,
    FLAG_MORE,
)
from drupelet.wire.limits import (
    BODY_BYTES_MAX,
    CALLS_PER_LINK_MAX,
    MANY_CALLS_MAX,
    OUT_BYTES_MAX,
    TARGET_BYTES_MAX,
)

TIMEOUT_S = 5.0  # OTP's gen_server:call default
_TIMEOUT_MS_MAX = 2**32 - 1
_LOCAL_RINGS = frozenset({"operator", "worker", "confined"})  # their targets begin with a node
_CONFINED = "this mission has cluster = false in its file in missions.d: it may call nothing"
_PREFIXES_MAX = 256  # prepared call headers that are kept

StreamHandler = Callable[[Endpoint, Stream], None]


class Calls:
    """The router of every endpoint of this node."""

    def __init__(self, exports: dict[bytes, Export], nursery: trio.Nursery) -> None:
        self._exports = exports
        self._nursery = nursery
        self._prefixes: dict[tuple[str, str, float], tuple[bytes, Export | None]] = {}
        self._stream_handlers: dict[bytes, tuple[StreamHandler, frozenset[str]]] = {}
        self.directory: Directory | None = None
        self.own_name = b""
        self.strangers: StrangerDoor | None = None
        self.border: Border | None = None
        self.keeper: Keeper | None = None
        self.served_count = 0
        self.refused_count = 0

    # -- from programs inside the daemon

    async def call(
        self, node: str, mission: str, function: str, *args: object, timeout: float = TIMEOUT_S
    ) -> object:
        """Call ``mission.function(*args)`` on `node`; return its value.

        `timeout` in seconds. Raises: `CallError` (see errors.py), `NotSendable`.
        """
        encoded = dumps(list(args))
        prefix = self._prefix(mission, function, timeout)
        deadline = trio.current_time() + timeout
        endpoint = self._directory().endpoint(node)
        if endpoint is None:
            if node == self._directory().own_name:
                return await self._call_here(mission, function, args, encoded, prefix, deadline)
            endpoint = await self._connect(node, deadline)
        if len(encoded) > BODY_BYTES_MAX:
            raise too_large(len(encoded))
        if endpoint.channel.congested:
            await self._wait_for_room(endpoint, deadline)
        if endpoint.ring == "stranger" and self.border is not None:
            body = await endpoint.call(prefix, self.border.outgoing(endpoint, encoded), deadline)
            return loads(self.border.incoming(endpoint, body[1:]))
        body = await endpoint.call(prefix, encoded, deadline)
        return loads(body[1:])

    @staticmethod
    async def _wait_for_room(endpoint: Endpoint, deadline: float) -> None:
        """A program in this process waits where a frame from outside would be refused."""
        with trio.CancelScope(deadline=deadline) as scope:
            while endpoint.channel.congested and not endpoint.closed:
                await endpoint.channel.wait_sendable()
        if scope.cancelled_caught:
            raise Timeout(maybe_ran=False)

    async def call_many(
        self,
        node: str,
        mission: str,
        function: str,
        many: Iterable[Sequence[object]],
        *,
        timeout: float = TIMEOUT_S,
    ) -> list[object]:
        """Call one function with many argument lists: one flush, one wake-up.

        Returns values and, in their places, `CallError` objects, in the order of `many`.
        """
        lists = [list(args) for args in many]
        prefix = self._prefix(mission, function, timeout)
        prefix = bytes((prefix[0] | FLAG_MANY,)) + prefix[1:]
        deadline = trio.current_time() + timeout
        chunks: list[list[list[object]]] = []
        encoded: list[bytes] = []
        for start in range(0, len(lists), MANY_CALLS_MAX):
            for chunk, body in encode_chunks(lists[start : start + MANY_CALLS_MAX]):
                chunks.append(chunk)
                encoded.append(body)
        if node == self._directory().own_name:
            export = self.permit(f"{mission}/{function}".encode(), "member", b"")
            if export.inline is not None:
                bodies: list[bytes | CallError] = [
                    b"\0" + dumps(await run_many_in_turn(export, chunk)) for chunk in chunks
                ]
                return join_answers(chunks, bodies)
            endpoint = worker_of(export)
        else:
            endpoint = self._directory().endpoint(node) or await self._connect(node, deadline)
        return join_answers(chunks, await endpoint.call_many(prefix, encoded, deadline))

    async def cast(self, node: str, mission: str, function: str, *args: object) -> None:
        """Call without an answer: sent once if the node is or can be connected."""
        encoded = dumps(list(args))
        if len(encoded) > frames.MORE_ABOVE:
            raise NotSendable(
                f"a cast carries at most {frames.MORE_ABOVE} bytes, these arguments have "
                f"{len(encoded)}; use call"
            )
        prefix = self._prefix(mission, function, 0)
        directory = self._directory()
        if node == directory.own_name:
            self.run_cast(prefix + encoded, "member")
            return
        if self.keeper is not None and self.keeper.takes(node, f"{mission}/{function}", encoded):
            return
        endpoint = directory.endpoint(node) or await self._connect(node, inf)
        if endpoint.ring == "stranger" and self.border is not None:
            encoded = self.border.outgoing(endpoint, encoded)
        endpoint.cast(prefix, encoded)

    async def multicall(
        self,
        nodes: Sequence[str] | None,
        mission: str,
        function: str,
        *args: object,
        timeout: float = TIMEOUT_S,
    ) -> dict[str, object]:
        """The same call on several nodes at once, with one deadline. None: this and all connected.

        Returns name -> value or `CallError`.
        """
        directory = self._directory()
        if nodes is None:
            nodes = [directory.own_name, *directory.connected()]
        results: dict[str, object] = {}

        async def one(node: str) -> None:
            try:
                results[node] = await self.call(node, mission, function, *args, timeout=timeout)
            except CallError as error:
                results[node] = error

        async with trio.open_nursery() as nursery:
            for node in dict.fromkeys(nodes):
                nursery.start_soon(one, node)
        return {node: results[node] for node in dict.fromkeys(nodes)}

    def _directory(self) -> Directory:
        assert self.directory is not None
        return self.directory

    def _prefix(self, mission: str, function: str, timeout: float) -> bytes:
        """The header of a call, prepared; with the digest of the code that we have ourselves."""
        key = (mission, function, timeout)
        known = self._prefixes.get(key)
        if known is not None:
            prefix, export = known
            if export is None or export.digest == prefix[-DIGEST_BYTES:]:
                return prefix
        target = f"{mission}/{function}".encode()
        if len(target) > TARGET_BYTES_MAX:
            raise NotSendable(f"mission and function names have {len(target)} bytes, at most 255")
        export = self._exports.get(target)
        digest = export.digest if export is not None else b""
        timeout_ms = min(int(timeout * 1000), _TIMEOUT_MS_MAX) if timeout != inf else 0
        prefix = frames.call_body(target, b"", timeout_ms=timeout_ms, digest=digest)
        if len(self._prefixes) >= _PREFIXES_MAX:
            self._prefixes.clear()
        self._prefixes[key] = (prefix, export if digest else None)
        return prefix

    async def _connect(self, node: str, deadline: float) -> Endpoint:
        with trio.CancelScope(deadline=deadline) as scope:
            return await self._directory().connect(node)
        assert scope.cancelled_caught
        raise Timeout(maybe_ran=False)

    async def _call_here(
        self,
        mission: str,
        function: str,
        args: Sequence[object],
        encoded: bytes,
        prefix: bytes,
        deadline: float,
    ) -> object:
        """A call to this node itself: the same door, no link."""
        await trio.lowlevel.checkpoint()
        export = self.permit(f"{mission}/{function}".encode(), "member", b"")
        if export.inline is None:
            body = await worker_of(export).call(prefix, encoded, deadline)
            return loads(body[1:])
        with trio.CancelScope(deadline=deadline):
            return loads(await run_inline(export, _arguments(encoded)))
        raise Timeout(maybe_ran=True)

    # -- from endpoints

    def on_call(self, endpoint: Endpoint, ident: int, body: bytes) -> None:
        """A CALL frame came. Answers it, now or later."""
        if len(body) < CALL_HEADER_BYTES:
            raise RemoteProtocolError("short call")
        flags, timeout_ms, target_length = CALL_HEADER.unpack_from(body)
        start = CALL_HEADER_BYTES + target_length
        target = body[CALL_HEADER_BYTES:start]
        if endpoint.ring in _LOCAL_RINGS:
            node, separator, target = target.partition(b"/")
            if not separator:
                raise RemoteProtocolError("target without a node")
            if endpoint.ring == "confined":
                endpoint.reply_error(ident, NotPermitted(_CONFINED))
                return
            if node and node != self.own_name:
                self._pass_on(endpoint, ident, node, target, body, start)
                return
        digest = b""
        if flags & FLAG_DIGEST:
            digest = body[start : start + DIGEST_BYTES]
            start += DIGEST_BYTES
        if len(body) < start:
            raise RemoteProtocolError("short call")
        if (
            endpoint.ring == "stranger"
            and self.strangers is not None
            and target not in STRANGERS_OWN
        ):
            self.strangers.on_call(endpoint, ident, target, flags, timeout_ms, body[start:])
            return
        try:
            congested = endpoint.channel.queued_bytes > OUT_BYTES_MAX  # it reads no answers
            if congested or len(endpoint.serving) >= CALLS_PER_LINK_MAX:
                raise NoConnection("overloaded")
            export = self.permit(target, endpoint.ring, digest)
            if export.inline is None:
                deadline = trio.current_time() + timeout_ms / 1000 if timeout_ms else inf
                header = CALL_HEADER.pack(flags & FLAG_MANY, timeout_ms, len(target)) + target
                more = flags & FLAG_MORE
                worker_of(export).forward(endpoint, ident, header, body[start:], deadline, more)
                return
        except CallError as error:
            self.refused_count += 1
            endpoint.reply_error(ident, error)
            return
        if flags & FLAG_MORE:
            taken = endpoint.assemble(
                ident,
                body[start:],
                lambda whole: self._serve_inline(endpoint, ident, export, whole, flags, timeout_ms),
            )
            if not taken:
                endpoint.reply_error(ident, NoConnection("overloaded"))
        else:
            self._serve_inline(endpoint, ident, export, body[start:], flags, timeout_ms)

    def permit(self, target: bytes, ring: str, digest: bytes) -> Export:
        """Whitelist, right, code. Raises: `CallError`."""
        export = self._exports.get(target)
        if export is None:
            raise self._undefined(target, ring)
        if ring not in export.rings and (
            ring != "worker" or "member" not in export.rings or export.raw is not None
        ):
            raise NotPermitted(f"{_text(target)} is not for a {ring}")
        if digest and export.digest and digest != export.digest:
            raise CodeMismatch(have=export.digest.hex(), want=digest.hex())
        return export

    def _undefined(self, target: bytes, ring: str) -> CallError:
        if ring == "worker":
            ring = "member"
        if ring not in ("operator", "member"):
            return NotPermitted()
        mission, _, function = _text(target).partition("/")
        missions: dict[str, list[str]] = {}
        for export in self._exports.values():
            if ring in export.rings:
                missions.setdefault(export.mission, []).append(export.function)
        if mission not in missions:
            near = difflib.get_close_matches(mission, missions, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return RemoteError(
                "undef",
                f"no mission {mission!r} on {_text(self.own_name)}, it has: "
                f"{', '.join(sorted(missions))}{hint}",
            )
        functions = sorted(missions[mission])
        near = difflib.get_close_matches(function, functions, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return RemoteError(
            "undef", f"mission {mission} exports no {function!r}, but {', '.join(functions)}{hint}"
        )

    def _serve_inline(
        self,
        endpoint: Endpoint,
        ident: int,
        export: Export,
        encoded: bytes,
        flags: int,
        timeout_ms: int,
    ) -> None:
        """A function of a system mission."""
        self.served_count += 1
        assert export.inline is not None
        try:
            args = loads(encoded)
            if args.__class__ is not list:
                raise RemoteProtocolError("arguments are not an array")
            if export.with_endpoint:
                if flags & FLAG_MANY:
                    raise NotPermitted("one call at a time")
                args = [endpoint, *args]
            value = run_many(export, args) if flags & FLAG_MANY else export.inline(*args)
            if value.__class__ is CoroutineType:
                self._nursery.start_soon(
                    self._serve_task, endpoint, ident, export, value, timeout_ms
                )
                return
            encoded_value = dumps(value)
        except RemoteProtocolError:
            raise
        except Exception as error:  # the function's, told to its caller
            endpoint.reply_error(ident, as_call_error(export, error))
            return
        endpoint.reply(ident, encoded_value)

    async def _serve_task(
        self,
        endpoint: Endpoint,
        ident: int,
        export: Export,
        running: Awaitable[object],
        timeout_ms: int,
    ) -> None:
        deadline = trio.current_time() + timeout_ms / 1000 if timeout_ms else inf
        with trio.CancelScope(deadline=deadline) as scope:
            if not endpoint.closed:
                endpoint.serving[ident] = scope
            try:
                encoded = dumps(await running)
            except Exception as error:  # the function's, told to its caller
                if not endpoint.closed:
                    endpoint.reply_error(ident, as_call_error(export, error))
                return
            if not endpoint.closed:
                endpoint.reply(ident, encoded)
        if scope.cancelled_caught and not endpoint.closed and ident in endpoint.serving:
            endpoint.reply_error(ident, Timeout(maybe_ran=True))

    def on_cast(self, endpoint: Endpoint, body: bytes) -> None:
        """A CAST frame came; nobody waits, so a refusal is only counted."""
        call = frames.split_call(body)
        if endpoint.ring == "stranger" and self.strangers is not None:
            if self.border is None or not self.border.on_cast(endpoint, call.target, call.args):
                self.strangers.cast(endpoint, call.target, call.args)
            return
        raw = self._exports.get(call.target)
        if raw is not None and raw.raw is not None:
            if endpoint.ring in raw.rings:
                raw.raw(endpoint, call.args)
            else:
                self.refused_count += 1
            return
        if endpoint.ring in _LOCAL_RINGS:
            node, separator, target = call.target.partition(b"/")
            if not separator:
                raise RemoteProtocolError("target without a node")
            if endpoint.ring == "confined":
                self.refused_count += 1
                return
            body = frames.call_body(target, call.args)
            if node and node != self.own_name:
                self._keep_or_send(_text(node), _text(target), call.args, body)
                return
        self.run_cast(body, endpoint.ring)

    def _keep_or_send(self, node: str, target: str, args: bytes, body: bytes) -> None:
        try:
            if self.keeper is None or not self.keeper.takes(node, target, args):
                self._nursery.start_soon(self.cast_on, node, body)
        except CallError:
            self.refused_count += 1

    async def cast_on(self, node: str, body: bytes) -> None:
        """Send a cast to another node, when it can be connected."""
        directory = self._directory()
        try:
            endpoint = directory.endpoint(node) or await self._connect(node, inf)
            if endpoint.ring == "stranger" and self.border is not None:
                call = frames.split_call(body)
                args = self.border.answer(endpoint, call.args)
                body = frames.call_body(call.target, args)
            endpoint.cast(body, b"")
        except CallError:
            self.refused_count += 1

    def run_cast(self, body: bytes, ring: str) -> None:
        """Deliver a cast to this node."""
        call = frames.split_call(body)
        try:
            export = self.permit(call.target, ring, call.digest)
            if export.raw is not None or export.with_endpoint:
                raise NotPermitted(f"{_text(call.target)} is not cast in this way")
            if export.inline is None:
                worker_of(export).cast(frames.call_body(call.target, b""), call.args)
                return
        except CallError:
            self.refused_count += 1
            return
        self._nursery.start_soon(self._cast_inline, export, call.args)

    async def _cast_inline(self, export: Export, encoded: bytes) -> None:
        try:
            args = loads(encoded)
            if isinstance(args, list):
                await run_inline(export, args)
        except Exception:  # nobody waits for a cast; RemoteProtocolError here is its sender's loss
            self.refused_count += 1

    # -- to another node, for a client

    def _pass_on(
        self, origin: Endpoint, ident: int, node: bytes, target: bytes, body: bytes, start: int
    ) -> None:
        flags, timeout_ms, _ = CALL_HEADER.unpack_from(body)
        export = self._exports.get(target)
        digest = export.digest if export is not None else b""
        if flags & FLAG_DIGEST:
            digest = body[start : start + DIGEST_BYTES]
            start += DIGEST_BYTES
        more = flags & FLAG_MORE
        kept = (flags & FLAG_MANY) | (FLAG_DIGEST if digest else 0)
        header = CALL_HEADER.pack(kept, timeout_ms, len(target))
        prefix = b"".join((header, target, digest))
        deadline = trio.current_time() + timeout_ms / 1000 if timeout_ms else inf
        endpoint = self._directory().endpoint(_text(node))
        args = body[start:]
        if endpoint is not None:
            self._forward(origin, ident, endpoint, prefix, args, deadline, more)
        elif more:  # the rest comes before there is a link to pass it on: put it together here
            taken = origin.assemble(
                ident,
                args,
                lambda whole: self._start_later(origin, ident, node, prefix, whole, deadline),
            )
            if not taken:
                origin.reply_error(ident, NoConnection("overloaded"))
        else:
            self._start_later(origin, ident, node, prefix, args, deadline)

    def _start_later(
        self, origin: Endpoint, ident: int, node: bytes, prefix: bytes, args: bytes, deadline: float
    ) -> None:
        self._nursery.start_soon(
            self._pass_on_later, origin, ident, _text(node), prefix, args, deadline
        )

    def _forward(
        self,
        origin: Endpoint,
        ident: int,
        endpoint: Endpoint,
        prefix: bytes,
        args: bytes,
        deadline: float,
        more: int = 0,
    ) -> None:
        try:
            if endpoint.channel.congested or endpoint.closed:
                raise NoConnection("overloaded" if endpoint.channel.congested else "closed")
            if endpoint.ring == "stranger" and self.border is not None:
                self.border.forward(origin, ident, endpoint, prefix, args, deadline, more)
                return
            endpoint.forward(origin, ident, prefix, args, deadline, more)
        except CallError as error:
            origin.reply_error(ident, error)

    async def _pass_on_later(
        self, origin: Endpoint, ident: int, node: str, prefix: bytes, args: bytes, deadline: float
    ) -> None:
        """Connect first, then pass on."""
        with trio.CancelScope() as scope:
            if origin.closed:
                return
            origin.serving[ident] = scope
            try:
                endpoint = await self._connect(node, deadline)
            except CallError as error:
                if not origin.closed and ident in origin.serving:
                    origin.reply_error(ident, error)
                return
            if not origin.closed and origin.serving.pop(ident, None) is not None:
                self._forward(origin, ident, endpoint, prefix, args, deadline)

    # -- streams

    def serve_stream(self, stream_type: str, handler: StreamHandler, rings: frozenset[str]) -> None:
        """`handler(endpoint, stream)` gets each stream of this type, already accepted: its first
        bytes may come in the same read. It must not block, and ends what it does not want."""
        self._stream_handlers[stream_type.encode()] = (handler, rings)

    def on_open(self, endpoint: Endpoint, ident: int, stream_type: bytes) -> None:
        """An OPEN frame came."""
        handler, rings = self._stream_handlers.get(stream_type, (None, frozenset[str]()))
        if endpoint.ring not in ("operator", "member"):
            endpoint.refuse_stream(ident, NotPermitted())
        elif handler is None:
            endpoint.refuse_stream(ident, RemoteError("undef", "no such stream type"))
        elif endpoint.ring not in rings:
            endpoint.refuse_stream(ident, NotPermitted())
        else:
            stream = endpoint.accept_stream(ident)
            try:
                handler(endpoint, stream)
            except CallError as error:
                stream.end(error)


def _arguments(encoded: bytes) -> list[object]:
    return cast(list[object], loads(encoded))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


__all__ = ["TIMEOUT_S", "Calls", "Directory"]
