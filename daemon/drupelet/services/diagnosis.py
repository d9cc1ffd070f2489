"""Diagnosis: `drupelet why NODE [MISSION [FUNCTION]]`, the first broken step and its mend.

Decides by trying, in the order in which a call would: name, mapper, port, key (the handshake:
cookie, version, membership, name), mission, function, code; for a node that granted this one
something: name, port, grant; where no link comes up and both have a relay: name, port, relay,
announced, grant. A step that holds is shown too, so that a learner sees how a call
finds its way. The clock is always shown as irrelevant: people suspect it
first, and nothing here reads it.

Rules: every step is bounded in time; at most eight addresses of a node are tried; nothing is
changed on either side.
"""

from __future__ import annotations

import difflib
import time
from dataclasses import dataclass, field
from typing import Final

import trio

from drupelet.core.candidates import Candidate
from drupelet.errors import (
    REASONS,
    CallError,
    LocalProtocolError,
    NoConnection,
    NotPermitted,
    Revoked,
)
from drupelet.net import epmd
from drupelet.services.calls import Calls
from drupelet.services.links import Links
from drupelet.services.missions import Missions
from drupelet.services.relay_link import RelayLink, shown_of
from drupelet.services.stranger_links import Strangers
from drupelet.wire.grants import Grant, describe

_ADDRESSES_MAX: Final = 8
_LOOPBACK: Final = "127.0.0.1"
_STEP_S: Final = 2.0
_PROBES_S: Final = 8.0  # for all addresses together; the command waits 15 s

MENDS: Final[dict[str, str]] = {
    "no_such_node": "is it switched on, on this network, and called that? `drupelet nodes` lists "
    'what is known here; or name its address in [link] peers = ["{name}@ADDRESS:PORT"]',
    "no_mapper": "start drupeletd on that host, or let its [portmapper] listen on an address that "
    "this machine reaches; or name the link port too: {name}:PORT",
    "not_registered": "start the node on that host; `drupelet names {host}` lists who is there",
    "port_closed": "the node is not running, or a firewall refuses its port: "
    "`systemctl status drupelet` there, and open ports 4370-4399",
    "no_route": "check the cable, the Wi-Fi and the address: `ping {host}`",
    "silent": "something else may use that port, or the node is overloaded: "
    "`journalctl -u drupelet` there",
    "bad_cookie": "give both nodes the same cookie file (sudo cat /etc/drupelet/cookie on the "
    "other one) and restart this one",
    "version": "update the older of the two nodes; `drupelet version` on each tells which it is",
    "not_a_member": "the node has expelled this key, or knows it only through a grant; "
    "pair the two again",
    "name_taken": "two nodes use the name; give one another [node] name and restart it",
    "wrong_node": "the address belongs to another node now; remove it from [link] peers",
    "overloaded": "too many connections or calls wait there, or tries from this address failed "
    "before (as between two clusters on one network): try again in a minute",
    "undef": "look at `drupelet call {node} node info`; list the function under exports in that "
    "node's missions.d file, mark it with @mission, and restart the node",
    "mission_silent": "wait, or look for a loop without an end; mark functions that compute "
    'for long with @mission("name", where="thread")',
    "mission_crashed": "`journalctl -u drupelet` on {node} shows the traceback; mend the mission's "
    "file, it is restarted by itself",
    "mission_refused": "mend what is named above in that mission's file on {node}, then restart "
    "the node",
    "code_differs": "on the node that has the newer file: `drupelet nl MISSION` ships it to all",
    "revoked": "ask the owner of {node} for a new grant",
    "expired": "ask the owner of {node} for a new grant",
    "not_granted": "ask the owner of {node} for a grant of it; `drupelet grants` lists what this "
    "node has",
    "rate_limited": "wait that long, or ask the owner of {node} for more at a time",
    "no_relay": "let it be reached at its port, or set [relay] url here to one of its relays",
    "relay_down": "`drupelet relay` shows what is the matter, and what to do",
    "not_announced": "it is switched off, or not connected to the relay (`drupelet relay` there "
    "tells), or it took its grant back",
    "down": "it was silent for 5 s: stopped, hung, or the network is cut; it is dialled again "
    "for ever",
}


@dataclass(slots=True)
class Diagnosis:
    """The steps walked so far."""

    node: str
    steps: list[dict[str, object]] = field(default_factory=list)

    def good(self, step: str, detail: str) -> None:
        """A step that holds."""
        self.steps.append({"step": step, "ok": True, "detail": detail})

    def broken(self, step: str, reason: str, detail: str = "", **words: str) -> dict[str, object]:
        """The first broken step ends the walk."""
        detail = detail or REASONS.get(reason, reason)
        self.steps.append({"step": step, "ok": False, "detail": detail})
        places = {"name": self.node, "node": self.node, "host": self.node, **words}
        mend = MENDS.get(reason, "look at `journalctl -u drupelet` on both nodes").format(**places)
        return {
            "ok": False,
            "step": step,
            "reason": reason,
            "detail": detail,
            "mend": mend,
            "steps": self.steps,
        }

    def done(self) -> dict[str, object]:
        """Nothing is broken."""
        return {"ok": True, "step": None, "reason": "", "mend": "", "steps": self.steps}


class Why:
    """Walks the steps for one node."""

    def __init__(
        self,
        links: Links,
        calls: Calls,
        missions: Missions,
        mapper_port: int,
        relay: RelayLink | None = None,
    ) -> None:
        self._links = links
        self._calls = calls
        self._missions = missions
        self._mapper_port = mapper_port
        self._relay = relay

    async def why(
        self, node: str, mission: str | None = None, function: str | None = None
    ) -> dict[str, object]:
        """Where a call to `node` breaks: {"ok", "step", "reason", "mend", "detail", "steps"}."""
        walk = Diagnosis(node)
        strangers = self._links.strangers
        if strangers is not None and self._links.link(node) is None:
            held = strangers.held(node)
            if held:
                return await self._by_grant(walk, strangers, held, mission, function)
        if node != self._links.own_name and self._links.endpoint(node) is None:
            broken = await self._reach(walk, node)
            if broken is not None:
                return broken
        elif node == self._links.own_name:
            walk.good("name", f"{node} is this node")
        else:
            walk.good("name", f"{node} is connected")
        return await self._ask(walk, node, mission, function)

    async def _by_grant(
        self,
        walk: Diagnosis,
        strangers: Strangers,
        held: list[Grant],
        mission: str | None,
        function: str | None,
    ) -> dict[str, object]:
        """The way to a node that is no member's; it says nothing but whether a grant counts."""
        node = walk.node
        walk.good("name", f"{node} granted something to this node")
        try:
            dead = await strangers.dead(node)
        except NoConnection as error:
            return self._no_way(walk, strangers, error.reason)
        except Revoked as error:
            return walk.broken("grant", error.word, str(error))
        except NotPermitted:
            return walk.broken("grant", "not_granted", f"{node} does not take what was granted")
        endpoint = strangers.endpoint(node)
        if endpoint is None or endpoint.direct:
            walk.good("port", "it answers, and its key is right")
        else:
            walk.good("port", "no link comes up; it is called through the relay")
            broken = await self._through_relay(walk, held[0])
            if broken is not None:
                return broken
        if mission is None:
            return walk.done()
        fitting = [each for each in held if each.mission == mission]
        if not fitting:
            names = ", ".join(sorted({each.mission for each in held}))
            detail = f"{node} granted functions of {names}, none of {mission}"
            return walk.broken("grant", "not_granted", detail)
        if function is not None:
            fitting = [each for each in fitting if each.allows(function)]
            if not fitting:
                detail = f"no grant of {node} names {mission}.{function}"
                return walk.broken("grant", "not_granted", detail)
        refused = dead.get(fitting[0].id)
        fitting = [each for each in fitting if each.id not in dead]
        if not fitting:
            return walk.broken("grant", getattr(refused, "word", "not_granted"), str(refused))
        names_of = {fitting[0].issuer: node, fitting[0].holder: "this node"}
        walk.good("grant", describe(fitting[0], names_of))
        if endpoint is not None and endpoint.direct:
            wait_s = min(strangers.wait_s(each.id) for each in fitting)
            if wait_s > 0:
                detail = f"what it allows is used up; a call goes through in {wait_s:.1f} s"
                return walk.broken("rate", "rate_limited", detail)
            walk.good("rate", "a call would go through now")
        return walk.done()

    def _no_way(self, walk: Diagnosis, strangers: Strangers, reason: str) -> dict[str, object]:
        """No link comes up, and no relay carries its calls."""
        relays = strangers.relays(walk.node)
        if not relays:
            return walk.broken("port", reason)
        walk.good("port", f"no link comes up: {REASONS.get(reason, reason)}")
        here = self._relay.url if self._relay is not None else "none"
        detail = f"{walk.node} is at {', '.join(relays)}; this node's relay: {here}"
        return walk.broken("relay", "no_relay", detail)

    async def _through_relay(self, walk: Diagnosis, grant: Grant) -> dict[str, object] | None:
        """The broken step, or None."""
        assert self._relay is not None  # else there is no such endpoint
        status = self._relay.status()
        if status["state"] != "up":
            return walk.broken("relay", "relay_down", f"{self._relay.url}: {status['why']}")
        walk.good("relay", f"{self._relay.url} lets this node in, by {status['way']}")
        try:
            await self._relay.beacon(grant.issuer, shown_of(grant))
        except NoConnection as error:
            if error.reason != "no_such_node":
                return walk.broken("relay", "relay_down", f"{self._relay.url} does not answer")
            return walk.broken("announced", "not_announced", f"{walk.node} is not there for us")
        walk.good("announced", f"{walk.node} is there for this node's key")
        return None

    async def _reach(self, walk: Diagnosis, node: str) -> dict[str, object] | None:
        candidates = await self._candidates(walk, node)
        if isinstance(candidates, dict):
            return candidates
        try:
            await self._links.connect(node)
        except NoConnection as error:
            return await self._probe(walk, candidates[:_ADDRESSES_MAX], error.reason)
        link = self._links.link(node)
        if link is not None:
            walk.good("port", f"{link.peer.host}:{link.peer.port} answers")
        walk.good("key", "cookie, version and key are right")
        return None

    async def _probe(
        self, walk: Diagnosis, addresses: list[Candidate], refused: str
    ) -> dict[str, object]:
        """It cannot be connected to: look at each of its addresses."""
        reasons: dict[str, Candidate] = {}
        ends = trio.current_time() + _PROBES_S
        for candidate in addresses:
            reason = "silent"
            with trio.move_on_at(min(ends, trio.current_time() + _STEP_S)):
                reason = await self._links.probe(candidate.host, candidate.port)
            if reason == "":
                walk.good("port", f"{candidate.host}:{candidate.port} answers")
                return walk.broken("member", refused)
            reasons.setdefault(reason, candidate)
        return self._unreachable(walk, reasons)

    @staticmethod
    def _unreachable(walk: Diagnosis, reasons: dict[str, Candidate]) -> dict[str, object]:
        """The most telling of several reasons: the one furthest along the way."""
        order = ("no_route", "port_closed", "silent", "wrong_node", "overloaded", "closed")
        reason = max(reasons, key=lambda each: order.index(each) if each in order else len(order))
        at = reasons[reason]
        detail = f"{at.host}:{at.port}: {REASONS.get(reason, reason)}"
        if reason == "no_route":
            return walk.broken("route", reason, detail, host=at.host)
        if reason == "port_closed":
            return walk.broken("port", reason, detail, host=at.host)
        walk.good("port", f"{at.host}:{at.port} is open")
        step = {"bad_cookie": "cookie", "version": "version", "silent": "port"}.get(reason, "key")
        return walk.broken(step, reason, detail, host=at.host)

    async def _candidates(self, walk: Diagnosis, node: str) -> list[Candidate] | dict[str, object]:
        """Addresses to try, or the broken step."""
        known = self._links.membership.candidates_of(node)
        if known:
            places = ", ".join(f"{each.host}:{each.port}" for each in known[:3])
            walk.good("name", f"{node} is known at {places}")
            return known
        name, at, host = node.partition("@")
        if not at:
            last = self._links.membership.reason(node)
            if last not in ("no_such_node", ""):
                return walk.broken("key" if last == "name_taken" else "name", last)
            here = await self._on_this_machine(walk, node)
            if here is not None:
                return [here]
            names = [str(each.name) for each in self._links.membership.nodes()]
            near = difflib.get_close_matches(node, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return walk.broken("name", "no_such_node", REASONS["no_such_node"] + hint)
        walk.good("name", f"{name} is looked for on {host}")
        try:
            entry = await epmd.lookup(host, name, port=self._mapper_port, timeout_s=_STEP_S)
        except NoConnection as error:
            step = "route" if error.reason == "no_route" else "mapper"
            return walk.broken(step, error.reason, host=host)
        if entry is None:
            return walk.broken("mapper", "not_registered", host=host)
        walk.good("mapper", f"the port mapper on {host} says port {entry.port}")
        candidate = Candidate(source="mapper", host=host, port=entry.port, name=name, key_prefix="")
        self._links.candidate(candidate)
        return [candidate]

    async def _on_this_machine(self, walk: Diagnosis, node: str) -> Candidate | None:
        """A name that only the port mapper here knows: a node that never linked (its cookie?).

        A port mapper tells a client of new names only when asked.
        """
        try:
            entry = await epmd.lookup(_LOOPBACK, node, port=self._mapper_port, timeout_s=_STEP_S)
        except (NoConnection, LocalProtocolError):
            return None
        if entry is None or entry.port == 0:
            return None
        walk.good("name", f"the port mapper of this machine knows {node} at port {entry.port}")
        candidate = Candidate(
            source="mapper", host=_LOOPBACK, port=entry.port, name=node, key_prefix=""
        )
        self._links.candidate(candidate)
        return candidate

    async def _ask(
        self, walk: Diagnosis, node: str, mission: str | None, function: str | None
    ) -> dict[str, object]:
        """What the node itself says of its missions."""
        try:
            started = trio.current_time()
            info = await self._calls.call(node, "node", "info", timeout=_STEP_S)
            took_ms = (trio.current_time() - started) * 1000
        except CallError as error:
            reason = error.reason if isinstance(error, NoConnection) else type(error).__name__
            return walk.broken("call", reason, str(error))
        if not isinstance(info, dict):
            return walk.broken("call", "wrong_node", "it answers, but not as a drupelet node")
        walk.good("call", f"it answers in {took_ms:.1f} ms")
        theirs_s = info.get("unix_s")
        apart_s = abs(theirs_s - time.time()) if isinstance(theirs_s, int | float) else 0.0
        walk.good("clock", f"the clocks are {apart_s:.0f} s apart, which does not matter")
        if mission is None:
            return walk.done()
        return self._mission(walk, node, info, mission, function)

    def _mission(
        self,
        walk: Diagnosis,
        node: str,
        info: dict[str, object],
        mission: str,
        function: str | None,
    ) -> dict[str, object]:
        missions = info.get("missions")
        theirs = {
            str(each["name"]): each
            for each in (missions if isinstance(missions, list) else [])
            if isinstance(each, dict) and "name" in each
        }
        entry = theirs.get(mission)
        if entry is None:
            has = ", ".join(sorted(theirs)) or "none"
            return walk.broken("mission", "undef", f"{node} has no mission {mission}; it has {has}")
        state = str(entry.get("state", ""))
        if state not in ("ready", "system"):
            detail = f"{mission} is {state}: {entry.get('problem', '')}".rstrip(": ")
            reason = "mission_refused" if state == "refused" else "mission_crashed"
            return walk.broken("mission", reason, detail)
        if entry.get("problem"):
            detail = f"{mission} {entry['problem']}"
            return walk.broken("mission", "mission_silent", detail)
        walk.good("mission", f"{mission} is ready")
        exports = entry.get("exports")
        exports = [str(each) for each in exports] if isinstance(exports, list) else []
        if function is not None:
            if function not in exports:
                detail = f"{mission} exports {', '.join(exports)}, not {function}"
                return walk.broken("function", "undef", detail)
            walk.good("function", f"{mission}.{function} is exported")
        ours = self._missions.digest(mission).hex()
        have = str(entry.get("digest", ""))
        if ours and have and ours != have:
            detail = f"{node} runs code {have[:12]}, this node has {ours[:12]}"
            return walk.broken("code", "code_differs", detail)
        walk.good("code", "the same code on both" if ours and have else f"only {node} has it")
        return walk.done()
