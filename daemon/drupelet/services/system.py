"""The `node` mission: what a node tells of itself, to members and to its operator.

Decides which of it is for whom. The verbs of the command line are these functions and nothing else;
there is no second door. Members: `ping`, `info`, `nodes`. The operator besides: `status`,
`ping_node`, `why`, `names`, `metrics`, `missions`, `set_cookie`.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from drupelet import __version__
from drupelet.errors import CallError, NoConnection, NotPermitted, RemoteError, Revoked
from drupelet.net import epmd
from drupelet.services.calls import Calls
from drupelet.services.clones import CloneWatch
from drupelet.services.diagnosis import Why
from drupelet.services.endpoint import Endpoint
from drupelet.services.links import Links, NodeEvent
from drupelet.services.missions import Missions
from drupelet.services.portmap import PortMapper
from drupelet.services.relay_link import RelayLink
from drupelet.services.streams import Stream
from drupelet.wire.codec import dumps
from drupelet.wire.keys import key_to_text

MEMBERS: Final = frozenset({"operator", "member"})
OPERATOR: Final = frozenset({"operator"})
_PING_S: Final = 2.0


class System:
    """The functions of the `node` mission."""

    def __init__(
        self,
        links: Links,
        calls: Calls,
        missions: Missions,
        mapper: PortMapper | None,
        *,
        key: bytes,
        mapper_port: int,
        link_port: int,
        set_cookie: Callable[[str], Awaitable[None]],
        clones: CloneWatch | None = None,
        relay: RelayLink | None = None,
        figures: Callable[[], list[tuple[str, str, float]]] = list,
    ) -> None:
        self._links = links
        self._calls = calls
        self._missions = missions
        self._mapper = mapper
        self._key_text = key_to_text(key)
        self._mapper_port = mapper_port
        self._link_port = link_port
        self._set_cookie = set_cookie
        self._figures = figures  # of others, for `metrics`
        self._clones = clones
        self._started = trio.current_time()
        self._why = Why(links, calls, missions, mapper_port, relay)

    def register(self) -> None:
        """Put the mission and the event stream into the whitelist."""
        self._missions.add_system(
            "node", {"ping": self.ping, "info": self.info, "nodes": self.nodes}, MEMBERS
        )
        self._missions.add_system(
            "node",
            {
                "status": self.status,
                "ping_node": self.ping_node,
                "why": self._why.why,
                "names": self.names,
                "metrics": self.metrics,
                "missions": self.missions,
                "set_cookie": self.set_cookie,
            },
            OPERATOR,
        )
        self._calls.serve_stream("node/events", self._events, OPERATOR)

    # -- for members

    def ping(self) -> str:
        """Answer "pong", as in OTP."""
        return "pong"

    def info(self) -> dict[str, object]:
        """Who this node is and what it offers."""
        return {
            "name": self._links.own_name,
            "key": self._key_text,
            "version": __version__,
            "uptime_s": round(trio.current_time() - self._started, 3),
            "unix_s": time.time(),
            "missions": self._missions.snapshot(),
        }

    def nodes(self) -> list[dict[str, object]]:
        """All other nodes that are or were known: name, key, state, address, why it is down."""
        found: list[dict[str, object]] = []
        for each in self._links.membership.nodes():
            link = self._links.link(each.name) if each.state == "up" else None
            round_trip_s = link.connection.round_trip_s if link is not None else None
            found.append(
                {
                    "name": each.name,
                    "key": key_to_text(each.key) if each.key else "",
                    "state": each.state,
                    "host": each.host,
                    "port": each.port,
                    "since_s": round(max(0.0, trio.current_time() - each.since), 3),
                    "rtt_ms": None if round_trip_s is None else round(round_trip_s * 1000, 3),
                    "reason": each.reason,
                }
            )
            clone = self._clones.of(each.key) if self._clones is not None else ""
            if clone:
                found[-1]["clone"] = f"another live node has its key: {clone}"
        return found

    # -- for the operator

    def status(self) -> dict[str, object]:
        """One page about this node."""
        nodes = self.nodes()
        warning = self._clones.warning() if self._clones is not None else ""
        return ({"clone": warning} if warning else {}) | {
            "name": self._links.own_name,
            "key": self._key_text,
            "version": __version__,
            "uptime_s": round(trio.current_time() - self._started, 3),
            "pid": os.getpid(),
            "port": self._link_port,
            "mapper": self._mapper.state() if self._mapper is not None else "off",
            "nodes_up": sum(each["state"] == "up" for each in nodes),
            "nodes_down": sum(each["state"] != "up" for each in nodes),
            "declared_down_count": self._links.declared_down_count,
            "missions": self._missions.snapshot(),
            "rss_bytes": _rss_bytes(),
        }

    async def ping_node(self, name: str) -> dict[str, object]:
        """{"ok": true, "rtt_ms"} or {"ok": false, "reason", "message"}. Connects if need be."""
        started = trio.current_time()
        try:
            if name != self._links.own_name and self._links.endpoint(name) is None:
                await self._links.connect(name)
                started = trio.current_time()
            await self._calls.call(name, "node", "ping", timeout=_PING_S)
        except NoConnection as error:
            return {"ok": False, "reason": error.reason, "message": str(error)}
        except (NotPermitted, Revoked):
            pass  # it granted this node other functions, or did once: it answers all the same
        except CallError as error:
            return {"ok": False, "reason": "silent", "message": str(error)}
        return {"ok": True, "rtt_ms": round((trio.current_time() - started) * 1000, 3)}

    async def names(self, host: str | None = None) -> list[dict[str, object]]:
        """What the port mapper of this machine, or of `host`, has registered."""
        if host is None and self._mapper is not None and self._mapper.state() == "mapper":
            entries = self._mapper.names()
        else:
            entries = await epmd.names(host or "127.0.0.1", port=self._mapper_port)
        return [{"name": name, "port": port} for name, port in entries]

    def missions(self) -> list[dict[str, object]]:
        """Every mission: name, exports, digest, state."""
        return self._missions.snapshot()

    async def set_cookie(self, text: str) -> bool:
        """Use another cookie from now on, for new links; the old one is accepted besides."""
        if not isinstance(text, str) or not text.strip():
            raise RemoteError("badarg", "the cookie is a text that is not empty")
        await self._set_cookie(text.strip())
        return True

    def metrics(self) -> str:
        """Prometheus text, version 0.0.4."""
        nodes = self._links.membership.nodes()
        admission = self._links.admission.statistics()
        up = sum(each.state == "up" for each in nodes)
        collected = [
            ("drupelet_uptime_seconds", "gauge", trio.current_time() - self._started),
            ("drupelet_resident_bytes", "gauge", _rss_bytes()),
            ("drupelet_nodes_up", "gauge", up),
            ("drupelet_nodes_known", "gauge", len(nodes)),
            ("drupelet_calls_served_total", "counter", self._calls.served_count),
            ("drupelet_calls_refused_total", "counter", self._calls.refused_count),
            ("drupelet_protocol_errors_total", "counter", self._links.protocol_error_count),
            ("drupelet_handshakes_failed_total", "counter", self._links.handshake_failed_count),
            ("drupelet_strangers_admitted_total", "counter", admission.admitted_count),
            (
                "drupelet_strangers_refused_total",
                "counter",
                admission.refused_total_count
                + admission.refused_address_count
                + admission.refused_penalty_count,
            ),
            ("drupelet_declared_down_total", "counter", self._links.declared_down_count),
            ("drupelet_gc_collections_total", "counter", gc.get_stats()[2]["collections"]),
            *self._figures(),
        ]
        lines: list[str] = []
        for name, kind, value in collected:
            lines += [f"# TYPE {name} {kind}", f"{name} {value:g}"]
        return "\n".join(lines) + "\n"

    # -- events

    def _events(self, endpoint: Endpoint, stream: Stream) -> None:
        """A stream of nodes that come and go: one CBOR map per DATA frame."""

        def tell(event: NodeEvent) -> None:
            item = {
                "event": event.kind,
                "name": event.name,
                "key": key_to_text(event.key),
                "reason": event.reason,
            }
            if not stream.send_item_nowait(dumps(item)):
                self._links.unlisten(tell)
                stream.end(NoConnection("overloaded"))

        self._watch(stream, tell)

    def _watch(self, stream: Stream, tell: Callable[[NodeEvent], None]) -> None:
        self._links.listen(tell)
        stream.on_closed = lambda: self._links.unlisten(tell)


def _rss_bytes() -> int:
    """Resident set of this process (Linux); 0 elsewhere."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
