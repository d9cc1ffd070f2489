"""A node: the composition root. Builds every part, owns the root nursery and the shutdown order.

No globals, no service locator: what a part needs is handed to it here, and nowhere else.

Start: identity and cookie from disk -> link port -> control socket -> missions -> ready -> port
mapper and discovery (they take up to 2 s and nobody needs to wait for them).
Stop: stop accepting -> say goodbye on links, bounded -> workers -> cancel the root.
"""

from __future__ import annotations

import gc
import logging
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import trio

from drupelet.config import Config
from drupelet.core.candidates import Candidate
from drupelet.core.grants import Grants
from drupelet.core.holdings import Holdings
from drupelet.core.membership import Membership
from drupelet.errors import EXIT_BAD_CONFIGURATION, EXIT_DONE, ConfigError, NoConnection
from drupelet.net import notify
from drupelet.net.channel import Channel, Flusher
from drupelet.net.ports import open_from_pool
from drupelet.services.accepted import Accepted
from drupelet.services.audit import Audit
from drupelet.services.calls import Calls
from drupelet.services.clones import CloneWatch
from drupelet.services.code import CodeShipping
from drupelet.services.control import Control
from drupelet.services.deadlines import Deadlines
from drupelet.services.discovery import Discovery
from drupelet.services.endpoint import Endpoint
from drupelet.services.grants import GrantService
from drupelet.services.http_calls import HttpCallService
from drupelet.services.joining import Joining
from drupelet.services.known_members import KnownMembers
from drupelet.services.launchers import SubprocessLauncher
from drupelet.services.links import Links
from drupelet.services.missions import Missions, MissionSpec
from drupelet.services.node_keys import NodeKeys
from drupelet.services.once import OnceService
from drupelet.services.outbox import OutboxService
from drupelet.services.own_addresses import own_addresses
from drupelet.services.pairing import PairingService
from drupelet.services.portmap import PortMapper
from drupelet.services.processes import Processes
from drupelet.services.proxies import ProxyService
from drupelet.services.relay_link import RelayLink
from drupelet.services.relay_mission import RelayMission
from drupelet.services.relayed_calls import RelayedCalls
from drupelet.services.relayed_pairing import RelayedPairing
from drupelet.services.stranger_calls import StrangerCalls, quota_of
from drupelet.services.system import MEMBERS, System
from drupelet.store.audit import AuditLog
from drupelet.store.grants import GrantStore
from drupelet.store.once import OnceStore
from drupelet.store.outbox import OutboxStore
from drupelet.wire.keys import key_prefix, key_to_text
from drupelet.wire.limits import GRANT_ADDRESSES_MAX, WORKER_CALLS_MAX
from drupelet.wire.relay import APPLY

_log = logging.getLogger("drupelet")

DRAIN_S: Final = 2.0  # how long stopping waits for peers to say goodbye


class Node:
    """One running node. Made by `open_node`; programs inside the process call through it."""

    def __init__(self, config: Config, nursery: trio.Nursery) -> None:
        self.config = config
        self._nursery = nursery
        self.flusher = Flusher(nursery)
        self.deadlines = Deadlines()
        self.keys = NodeKeys(config)
        self.identity = self.keys.identity
        self.missions = Missions(
            config.missions.dir,
            launcher=SubprocessLauncher(),
            open_endpoint=self._open_worker,
            state_dir=config.node.state_dir,
        )
        link = config.link
        self._bound = open_from_pool(link.listen, link.port_min, link.port_max)
        self.port = self._bound.port
        self.credentials = self.keys.credentials(self.port)
        self.membership = Membership(
            self.credentials.identity, config.node.name, secrets.SystemRandom().random
        )
        self.calls = Calls(self.missions.exports, nursery)
        self.calls.own_name = config.node.name.encode()
        self.links = Links(
            self.credentials,
            self.membership,
            self.calls,
            self.flusher,
            self.deadlines,
            list(self._bound.sockets),
            mapper_port=config.portmapper.port,
        )
        self.keys.on_cookie = self._use_cookies
        self.calls.directory = self.links
        self.processes = Processes(
            config.node.name, self.credentials.incarnation, self.links, self.deadlines, nursery
        )
        self.holdings = Holdings()
        self.calls.border = self.proxies = self._make_proxies()
        self.control = Control(
            config.node.socket,
            self.calls,
            self.flusher,
            self.deadlines,
            name=config.node.name,
            key=key_to_text(self.identity.public_key),
        )
        self.code = self._make_code()
        self.audit = Audit(
            AuditLog(config.node.state_dir / "audit"), f"{self.credentials.incarnation:x}"
        )
        self.known = KnownMembers(config.node.state_dir, self.membership.key_of, self.links)
        self.grants = self._make_grants()
        self.links.strangers = self.grants
        self.links.listen(self.grants.telling.on_node)
        self.once = self._make_once()
        self.relayed = self._make_relayed()
        self.outbox = self._make_outbox()
        self.relay = self._make_relay()
        self.http_calls = self._make_http_calls()
        self.relayed_pairing = self._make_relayed_pairing()
        self.pairing = self._make_pairing()
        self.mapper = self._make_mapper()
        self.discovery = self._make_discovery()
        self.call = self.calls.call
        self.call_many = self.calls.call_many
        self.cast = self.calls.cast
        self.multicall = self.calls.multicall

    def _use_cookies(self, psks: tuple[bytes, ...]) -> None:
        """Those that new links take from now on, the first one first."""
        self.credentials = self.links.credentials = replace(self.credentials, psks=psks)
        self.links.failures.clear()  # the new one is tried first, wherever another one failed
        self.membership.cookie_changed(trio.current_time())
        self.deadlines.add(self.links)

    def _make_code(self) -> CodeShipping:
        return CodeShipping(
            self.missions,
            self.calls,
            seed=self.identity.seed,
            key=self.identity.public_key,
            state_dir=self.config.node.state_dir,
            members=lambda: (each.key for each in self.membership.nodes()),
        )

    def _make_proxies(self) -> ProxyService:
        links = self.links.stranger_links
        return ProxyService(
            self.config.node.name, self.processes, links, self.deadlines, self.holdings
        )

    def _make_grants(self) -> GrantService:
        strangers = StrangerCalls(
            Grants(
                self.identity.public_key,
                lambda key: any(each.key == key for each in self.membership.nodes()),
                quota_of(self.config.grants),
                self.holdings,
            ),
            missions=self.missions,
            calls=self.calls,
            audit=self.audit,
            border=self.proxies,
        )
        return GrantService(
            audit=self.audit,
            strangers=strangers,
            seed=self.identity.seed,
            name=self.config.node.name,
            store=GrantStore(self.config.node.state_dir / "grants"),
            missions=self.missions,
            calls=self.calls,
            accepted=Accepted(self.links.stranger_links, self._seen_at, self.known.key_of),
            addresses=self._addresses,
            members=self.known.keys,
        )

    def _make_once(self) -> OnceService:
        return OnceService(
            OnceStore(self.config.node.state_dir / "once"),
            key=self.identity.public_key,
            missions=self.missions,
            calls=self.calls,
            strangers=self.grants.strangers,
            deadlines=self.deadlines,
        )

    def _make_outbox(self) -> OutboxService:
        return OutboxService(
            OutboxStore(self.config.node.state_dir / "outbox"),
            key=self.identity.public_key,
            missions=self.missions,
            calls=self.calls,
            once=self.once,
            relayed=self.relayed,
            border=self.proxies,
            deadlines=self.deadlines,
            granted_by=self.grants.accepted.owner,
            member=self.known.key_of,
        )

    def _make_relayed(self) -> RelayedCalls:
        return RelayedCalls(
            seed=self.identity.seed,
            strangers=self.grants.strangers,
            once=self.once,
            accepted=self.grants.accepted,
            calls=self.calls,
            deadlines=self.deadlines,
            nursery=self._nursery,
        )

    def _make_relay(self) -> RelayLink | None:
        if not self.config.relay.url:
            return None
        link = RelayLink(
            self.config.relay,
            seed=self.identity.seed,
            name=self.config.node.name,
            offering=self.relayed,
        )
        self.relayed.use(link, self.proxies)
        self.grants.relay_urls = link.urls
        self.grants.accepted.relay = self.relayed
        return link

    def _make_relayed_pairing(self) -> RelayedPairing | None:
        if self.relay is None:
            return None
        return RelayedPairing(
            self.relay,
            seed=self.identity.seed,
            name=self.config.node.name,
            addresses=self._addresses,
            nursery=self._nursery,
        )

    def _make_http_calls(self) -> HttpCallService:
        service = HttpCallService(
            seed=self.identity.seed,
            name=self.config.node.name,
            relayed=self.relayed,
            accepted=self.grants.accepted,
            link=lambda url: self.relay if url in ("", *self.grants.relay_urls) else None,
        )
        if self.relay is not None:
            self.relay.on_kind[APPLY] = service.take
        return service

    def _make_pairing(self) -> PairingService:
        node = self.config.node
        joining = Joining(
            key=self.identity.public_key,
            name=node.name,
            environment=node.environment,
            links=self.links,
            grants=self.grants,
            keep_cookie=self.keys.keep_cookie,
            relayed=self.relayed_pairing,
        )
        return PairingService(
            key=self.identity.public_key,
            name=node.name,
            environment=node.environment,
            grants=self.grants,
            stranger_links=self.links.stranger_links,
            admission=self.links.admission,
            addresses=self._addresses,
            cookie_text=self.keys.cookie_text,
            joining=joining,
            relayed=self.relayed_pairing,
        )

    def _make_mapper(self) -> PortMapper | None:
        if not self.config.portmapper.enabled:
            return None
        return PortMapper(
            self.config.portmapper,
            name=self.config.node.name,
            port=self.port,
            on_names=self._on_names,
        )

    def _make_discovery(self) -> Discovery | None:
        if not self.config.mdns.enabled:
            return None
        return Discovery(
            self.config.mdns,
            key_prefix=key_prefix(key_to_text(self.identity.public_key)),
            name=self.config.node.name,
            port=self.port,
            on_candidate=self.links.candidate,
            addresses=self.config.link.listen,
            socket_path=self.config.mdns.socket,
        )

    def _open_worker(self, sock: object, mission: str) -> Endpoint:
        channel = Channel(sock, self.flusher)  # type: ignore[arg-type]
        return Endpoint(
            channel,
            self.calls,
            self.deadlines,
            opener=True,
            ring="worker",
            name=mission,
            calls_max=WORKER_CALLS_MAX,
        )

    def _on_names(self, names: list[tuple[str, int]]) -> None:
        """The port mapper of this machine knows these: hints like any other."""
        host = self._own_host()
        for name, port in names:
            if port != self.port and name != self.config.node.name.partition("@")[0]:
                self.links.candidate(
                    Candidate(source="mapper", host=host, port=port, name=name, key_prefix="")
                )

    def _addresses(self) -> list[tuple[str, int]]:
        """Where others find this node now: what a grant's file says."""
        told = [(each.host, each.port) for each in self.config.link.advertise]
        hosts: list[str] = []
        for listen in self.config.link.listen:
            if listen in ("0.0.0.0", "::"):
                hosts.extend(own_addresses(6 if ":" in listen else 4))
            else:
                hosts.append(listen)
        found = [*told, *((host, self.port) for host in hosts)]
        return list(dict.fromkeys(found))[:GRANT_ADDRESSES_MAX]

    def _seen_at(self, name: str, key: bytes) -> list[tuple[str, int]]:
        """Where discovery saw a node of that name and key."""
        prefix = key_prefix(key_to_text(key))
        return [
            (each.host, each.port)
            for each in self.membership.candidates_of(name)
            if each.key_prefix == prefix
        ]

    def _own_host(self) -> str:
        """An address of this machine at which its nodes listen: loopback, if they do there."""
        listen = self.config.link.listen
        for loopback, everywhere in (("127.0.0.1", "0.0.0.0"), ("::1", "::")):
            if loopback in listen or everywhere in listen:
                return loopback
        return listen[0]

    @property
    def name(self) -> str:
        """This node's name."""
        return self.config.node.name

    @property
    def key(self) -> bytes:
        """This node's public key."""
        return self.identity.public_key

    def serve(self, mission: str, functions: dict[str, Callable[..., object]]) -> None:
        """Offer functions of this process to members: for programs that embed a node."""
        self.missions.add_system(mission, functions, MEMBERS)

    async def start(self, missions: Sequence[MissionSpec] = ()) -> None:
        """Bring every part up; returns when calls can be made."""
        try:
            self.control.open()
        except ConfigError:
            self._bound.close()
            raise
        self._nursery.start_soon(self.flusher.run)
        self._nursery.start_soon(self.deadlines.run)
        clones = CloneWatch(self.links, self.calls, self.missions)
        clones.register()
        self._nursery.start_soon(clones.run)
        System(
            self.links,
            self.calls,
            self.missions,
            self.mapper,
            key=self.identity.public_key,
            mapper_port=self.config.portmapper.port,
            link_port=self.port,
            set_cookie=self.keys.set_cookie,
            clones=clones,
            relay=self.relay,
            figures=self.outbox.figures,
        ).register()
        self.processes.register(self.missions)
        self.proxies.register()
        for spec in missions:
            self.missions.add(spec)
        self.code.register()
        self.code.restore()
        self.audit.register(self.missions)
        RelayMission(self.relay, self.grants.accepted).register(self.missions)
        self._nursery.start_soon(self.audit.run)
        self.grants.register()
        self.pairing.register(self.missions)
        self.http_calls.register(self.missions)
        self.known.restore()
        self._nursery.start_soon(self.known.run)
        self.grants.restore()
        self._nursery.start_soon(self.grants.run)
        self._nursery.start_soon(self.grants.telling.run)
        self.once.register()
        self.once.restore()
        self._nursery.start_soon(self.once.run)
        self.outbox.register()
        self.outbox.restore()
        await self._nursery.start(self.links.run)
        await self._nursery.start(self.missions.run)
        self._nursery.start_soon(self.outbox.run)
        self._nursery.start_soon(self.control.run)
        for peer in self.config.link.peers:
            self.links.candidate(
                Candidate(
                    source="static", host=peer.host, port=peer.port, name=peer.name, key_prefix=""
                )
            )
        if self.config.missions.launcher == "systemd":
            _log.info("missions_launcher wanted=systemd, it comes later: using child processes")
        if self.identity.replaced_key:
            _log.warning(
                "key_replaced old=%s, this card was copied from another board: a new key was made",
                key_to_text(self.identity.replaced_key),
            )

    async def start_finding(self) -> None:
        """The parts that find other nodes; after ready, since they take their time."""
        if self.mapper is not None:
            self._nursery.start_soon(self.mapper.run)
        if self.discovery is not None:
            self._nursery.start_soon(self.discovery.run)
        if self.relay is not None:
            self._nursery.start_soon(self.relay.run)
        if self.relayed_pairing is not None:
            self._nursery.start_soon(self.relayed_pairing.run)

    async def stop(self) -> None:
        """Orderly: no new callers, goodbye to peers."""
        self.control.stop_accepting()
        with trio.move_on_after(DRAIN_S + 0.5, shield=True):
            if self.relay is not None:
                await self.relay.leave()
            await self.links.stop(DRAIN_S)
            self.links.cut_all(NoConnection("stopping"))


@asynccontextmanager
async def open_node(
    config: Config, missions: Sequence[MissionSpec] = (), *, finding: bool = True
) -> AsyncIterator[Node]:
    """A running node. Raises: `ConfigError`. Leaving the block stops it in order."""
    refused: ConfigError | None = None
    async with trio.open_nursery() as nursery:
        try:
            node = Node(config, nursery)
            await node.start(missions)
        except ConfigError as error:  # as it is, not in a group of the nursery
            refused = error
            nursery.cancel_scope.cancel()
        else:
            if finding:
                await node.start_finding()
            try:
                yield node
            finally:
                await node.stop()
                nursery.cancel_scope.cancel()
    if refused is not None:
        raise refused


async def _serve(
    config: Config, missions: Sequence[MissionSpec], on_ready: Callable[[Node], None]
) -> None:
    async with open_node(config, missions, finding=False) as node:
        gc.collect()
        gc.freeze()  # what was made at start stays; later collections need not look at it
        notify.ready(f"{node.name} on port {node.port}")
        _log.info("ready name=%s port=%d socket=%s", node.name, node.port, config.node.socket)
        on_ready(node)
        await node.start_finding()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watchdog)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                async for received in signals:
                    if received != signal.SIGHUP:
                        break
            nursery.cancel_scope.cancel()
        notify.stopping()
        _log.info("stopping signal=%s", signal.Signals(received).name)


async def _watchdog() -> None:
    interval_s = notify.watchdog_interval_s()
    while interval_s is not None:
        await trio.sleep(interval_s / 2)
        notify.watchdog()


def run_node(
    config: Config,
    missions: Sequence[MissionSpec] = (),
    on_ready: Callable[[Node], None] = lambda node: None,
) -> int:
    """Run one node until SIGTERM or SIGINT; return the exit code."""
    code = EXIT_DONE
    try:
        trio.run(_serve, config, missions, on_ready)
    except* ConfigError as group:
        code = EXIT_BAD_CONFIGURATION
        for error in _leaves(group):
            _log.critical("%s", error)
    return code


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for each in group.exceptions:
        found += _leaves(each) if isinstance(each, BaseExceptionGroup) else [each]
    return found


__all__ = ["DRAIN_S", "Node", "open_node", "run_node"]
