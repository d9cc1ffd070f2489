"""One zeroconf instance on a fixed set of interfaces: advertises this node, hears of others.

Decides what is asked and when, and which answers become a `Found`. The instance name is the key
prefix, so two nodes never claim one name: nothing is probed (that takes 1.6 s) and nothing is ever
renamed. When interfaces change, or when forged records fill the cache, the owner closes this
responder and makes another: the one way back to a known state.

- Queries: PTR, multicast answers (several nodes of one machine share port 5353, and a unicast
  answer reaches only one of them), at 0, 1, 3, 7, 15... s, then every QUERY_INTERVAL_S_MAX for
  ever (RFC 6762, section 5.2: at least doubling, at most an hour); while hints are lost to a limit,
  every QUERY_INTERVAL_S_LOSING, so that an honest node is found soon after a flood. No known
  answers are listed: an answer is a sign of life.
- Every PTR or SRV record of our type, also one that is not new, makes its instance a hint: a node
  that restarts announces itself, and is dialled at once.
- Goodbyes are not looked at: forged as easily as greetings.

Rejected: zeroconf's ServiceBrowser (keeps a refresh timer for each forged service, asks only at the
start, and tells nothing about announcements it knows already).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from collections.abc import Callable, Iterable
from typing import Final, TypeVar, cast

from zeroconf import (  # type: ignore[attr-defined]  # DNSOutgoing and others miss in __all__
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSQuestionType,
    DNSService,
    Error,
    IPVersion,
    RecordUpdate,
    RecordUpdateListener,
    Zeroconf,
)
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from drupelet.discovery.gate import PacketGate
from drupelet.discovery.interfaces import Plan
from drupelet.errors import RemoteProtocolError
from drupelet.wire import limits
from drupelet.wire.messages import discovery as messages

SERVICE_TYPE: Final = "_drupelet._tcp.local."
HOST_SUFFIX: Final = "-drupelet.local."  # the gate lets packets in by "drupelet"
TEXT_VERSION: Final = b"1"
QUERY_INTERVAL_S_MAX: Final = 300.0  # 8 nodes: one query and 8 answers every 37 s on the LAN
QUERY_INTERVAL_S_LOSING: Final = 15.0  # somewhat more than a window of candidates
RESOLVES_MAX: Final = 8  # queries for an instance's details under way at once
RESOLVE_S: Final = 3.0
INSTANCES_PER_PACKET_MAX: Final = 8  # one machine announces its own few nodes
CACHED_NAMES_MAX: Final = 1_024  # a LAN of 250 nodes; beyond it somebody makes names up
EXIT_MEMORY: Final = 71  # EX_OSERR of sysexits.h: the memory cap was met

_PTR: Final = 12
_IN: Final = 1
_QUERY_FLAGS: Final = 0

_log = logging.getLogger("drupelet.discovery")
_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)

FoundHandler = Callable[[str, messages.Found], None]  # sender's address, what it told


class GatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose datagram endpoints hear only what the gate lets in."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = PacketGate()

    async def create_datagram_endpoint(  # type: ignore[override]  # zeroconf passes only a socket
        self, protocol_factory: Callable[[], _Protocol], *, sock: socket.socket
    ) -> tuple[asyncio.DatagramTransport, _Protocol]:
        """As asyncio's, with the gate between the transport and the protocol."""
        inner = protocol_factory()
        heard = cast(asyncio.DatagramProtocol, inner)  # zeroconf's only looks like one
        transport, _ = await super().create_datagram_endpoint(
            lambda: _GatedProtocol(heard, self.gate, self.time), sock=sock
        )
        return transport, inner


class _GatedProtocol(asyncio.DatagramProtocol):
    """Hands on what the gate admits; an exception of the parser costs that packet only."""

    def __init__(
        self, inner: asyncio.DatagramProtocol, gate: PacketGate, clock: Callable[[], float]
    ) -> None:
        self._inner = inner
        self._gate = gate
        self._clock = clock

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)  # type: ignore[arg-type]  # it is a datagram one

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def error_received(self, exc: Exception) -> None:
        _log.debug("error on a multicast socket: %s", exc)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        sender = str(addr[0]).removeprefix("::ffff:")
        if not self._gate.admits(data, sender, self._clock()):
            return
        try:
            self._inner.datagram_received(data, addr)
        except MemoryError:
            os._exit(EXIT_MEMORY)  # no memory left to clean up with; the daemon starts another
        except Exception:
            _log.debug("a packet of %s broke the parser, ignoring", sender, exc_info=True)


class Responder(RecordUpdateListener):
    """Advertises `start` on `plan.speak`, tells `on_found` of others and `on_flood` of too many.

    *Owns*: its zeroconf instance, one query task, at most RESOLVES_MAX resolving tasks. `open`
    starts them, `close` ends them.
    """

    def __init__(
        self,
        start: messages.Start,
        plan: Plan,
        gate: PacketGate,
        *,
        on_found: FoundHandler,
        on_flood: Callable[[], None],
        lost_count: Callable[[], int],
    ) -> None:
        """`lost_count` tells how many packets and hints the limits have cost so far."""
        super().__init__()
        self.plan = plan
        self.refused_count = 0
        self._start = start
        self._gate = gate
        self._on_found = on_found
        self._on_flood = on_flood
        self._lost_count = lost_count
        self._own_name = f"{start.key_prefix}.{SERVICE_TYPE}"
        self._zeroconf: AsyncZeroconf | None = None
        self._query_task: asyncio.Task[None] | None = None
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._touched: dict[str, None] = {}  # instances in the packet under way, in order

    async def open(self) -> None:
        """Bind the sockets, announce, begin to ask. Raises: `OSError`, `RuntimeError`."""
        try:
            await self._open()
        except Error as error:  # zeroconf's own
            raise OSError(f"zeroconf: {type(error).__name__}") from error

    async def _open(self) -> None:
        self._zeroconf = AsyncZeroconf(interfaces=list(self.plan.speak))
        zeroconf = self._zeroconf.zeroconf
        await zeroconf.async_wait_for_start()
        if not zeroconf.engine.senders:  # every address went away while we bound
            raise OSError("no interface could be bound")
        zeroconf.async_add_listener(self, None)
        if self.plan.advertise:
            announcing = await zeroconf.async_register_service(
                _service_info(self._start, self.plan.advertise), cooperating_responders=True
            )
            _forget_errors(announcing)
        self._query_task = asyncio.create_task(self._ask(zeroconf))

    async def close(self, goodbye: bool) -> None:
        """Stop. `goodbye`: tell the LAN, once; otherwise leave silently to come back at once."""
        if self._query_task is not None:
            self._query_task.cancel()
        for task in list(self._resolving.values()):
            task.cancel()
        if self._zeroconf is None:
            return
        zeroconf = self._zeroconf.zeroconf
        farewell = zeroconf.generate_unregister_all_services()  # also empties the registry
        if goodbye and farewell is not None:
            zeroconf.async_send(farewell)
        with contextlib.suppress(KeyError):  # it was not added yet
            zeroconf.async_remove_listener(self)
        await self._zeroconf.async_close()
        self._zeroconf = None

    @property
    def is_flooded(self) -> bool:
        """Whether the cache holds more names than a real LAN has."""
        if self._zeroconf is None:
            return False
        return len(self._zeroconf.zeroconf.cache.cache) > CACHED_NAMES_MAX

    def async_update_records(
        self, zc: Zeroconf, now: float, records: Iterable[RecordUpdate]
    ) -> None:
        """zeroconf: records came (before its cache has them); remember whose they are."""
        for update in records:
            record = update.new
            if isinstance(record, DNSPointer):
                name = record.alias if record.name.lower() == SERVICE_TYPE else ""
            elif isinstance(record, DNSService):
                name = record.name
            else:
                continue
            if record.is_expired(now) or not name.endswith(SERVICE_TYPE) or name == self._own_name:
                continue
            is_ours = messages.is_key_prefix(name.removesuffix("." + SERVICE_TYPE))
            if not is_ours or len(self._touched) >= INSTANCES_PER_PACKET_MAX:
                self.refused_count += 1
                continue
            self._touched[name] = None

    def async_update_records_complete(self) -> None:
        """zeroconf: its cache has the records of this packet now."""
        if self._zeroconf is None:
            return
        touched, self._touched = self._touched, {}
        for name in touched:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            if info.load_from_cache(self._zeroconf.zeroconf):
                self._tell(info, self._gate.sender)
            elif name not in self._resolving and len(self._resolving) < RESOLVES_MAX:
                self._resolving[name] = asyncio.create_task(
                    self._resolve(self._zeroconf.zeroconf, name, self._gate.sender)
                )
            elif name not in self._resolving:
                self.refused_count += 1
        if self.is_flooded:
            self._on_flood()

    async def _resolve(self, zeroconf: Zeroconf, name: str, sender: str) -> None:
        info = AsyncServiceInfo(SERVICE_TYPE, name)
        try:
            is_whole = await info.async_request(
                zeroconf, RESOLVE_S * 1_000, question_type=DNSQuestionType.QM
            )
        finally:
            self._resolving.pop(name, None)
        if is_whole:
            self._tell(info, sender)

    def _tell(self, info: AsyncServiceInfo, sender: str) -> None:
        key_prefix = info.name.removesuffix("." + SERVICE_TYPE)
        texts = info.properties
        if texts.get(b"v") != TEXT_VERSION or texts.get(b"k") != key_prefix.encode():
            self.refused_count += 1
            return
        name = (texts.get(b"name") or b"").decode("utf-8", "replace")
        port = info.port or 0
        if not messages.is_name(name) or not messages.PORT_MIN <= port <= messages.PORT_MAX:
            self.refused_count += 1
            return
        addresses = info.parsed_scoped_addresses(IPVersion.All)[: limits.SERVICE_ADDRESSES_MAX]
        for address in addresses:
            try:
                host = messages.checked_host(address)
            except RemoteProtocolError:
                self.refused_count += 1
                continue
            found = messages.Found(key_prefix=key_prefix, name=name, host=host, port=port)
            self._on_found(sender, found)

    async def _ask(self, zeroconf: Zeroconf) -> None:
        interval_s = 1.0
        lost_count = self._lost_count()
        await asyncio.sleep(random.uniform(0.02, 0.12))  # RFC 6762, section 5.2
        while True:
            query = DNSOutgoing(_QUERY_FLAGS)
            query.add_question(DNSQuestion(SERVICE_TYPE, _PTR, _IN))
            zeroconf.async_send(query)
            await asyncio.sleep(interval_s * random.uniform(0.9, 1.1))  # nodes drift apart
            lost_count, lost_before = self._lost_count(), lost_count
            longest_s = (
                QUERY_INTERVAL_S_MAX if lost_count == lost_before else QUERY_INTERVAL_S_LOSING
            )
            interval_s = min(interval_s * 2, longest_s)


def _service_info(start: messages.Start, addresses: tuple[str, ...]) -> AsyncServiceInfo:
    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"{start.key_prefix}.{SERVICE_TYPE}",
        port=start.port,
        properties={
            b"v": TEXT_VERSION,
            b"name": start.name.encode(),
            b"k": start.key_prefix.encode(),
        },
        server=start.key_prefix + HOST_SUFFIX,
        parsed_addresses=list(addresses),
    )


def _forget_errors(announcing: object) -> None:
    """A failed announcement is made up for by the answers to queries."""
    if isinstance(announcing, asyncio.Future):
        announcing.add_done_callback(lambda done: done.cancelled() or done.exception())
