"""The owners of the simulated run: grants as the parties make, hand on and take back.

Decides what is wanted, anew each time, and tells the ledger what was made, in the words of who made
it. The grants themselves are `wire/grants.py`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from drupelet.wire import sodium
from drupelet.wire.grants import Grant, Terms, decode_grant, issue, narrow
from tests.sim.stranger_nodes import HonestNode
from tests.sim.stranger_rights import Chain, Dead, Link

if TYPE_CHECKING:
    from tests.sim.stranger_world import World

MISSIONS = ("kettle", "lamp")
FUNCTIONS = ("boil", "heat", "look", "stop")


class Owners:
    """Everybody, as far as they make and take grants."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.chains: list[Chain] = []

    def dead(self, node: HonestNode, what: bytes | str, sequence: int) -> Dead:
        """What dies when that is revoked."""
        alive = [chain.sequence for chain in self.alive_of(node)]
        self.world.ledger.check(
            "revoked", sequence >= max(alive, default=0), "not all of a key's grants"
        )
        own = [each for each in self.chains if each.issuer == node.name and len(each.ids) == 1]
        over = {each.ids[0] for each in own if node.rights.expired(each, node.local())[1]}
        return Dead(what, node.key, sequence, frozenset(over))

    def is_alive(self, chain: Chain) -> bool:
        """Whether it counts, and for sure."""
        node = self.world.honest.get(chain.issuer)
        if node is None:
            return True
        return not node.rights.is_dead(chain) and not node.rights.expired(chain, node.local())[0]

    def alive_of(self, node: HonestNode) -> list[Chain]:
        """Those that a node issued and that count."""
        own = (chain for chain in self.chains if chain.issuer == node.name)
        return [chain for chain in own if self.is_alive(chain)]

    def _terms(self) -> Terms:
        draw = self.random
        functions = draw.choice((None, None, ("look", "stop"), ("boil", "look", "stop"), ("look",)))
        rate = draw.choice((None, (5, 10), (2, 5), (1, 4), (3, 1)))
        return Terms(
            functions=functions,
            rate=rate,
            burst=draw.choice((None, 1, 2)) if rate else None,
            concurrent=draw.choice((None, None, 1, 2)),
            bytes=draw.choice((None, None, 60, 200)),
            expires_s=draw.choice((None, None, 60, 120, 3_000)),
            delegable=draw.choice((0, 1, 2, 3)),
        )

    def _holder(self, others: list[str]) -> tuple[bytes, tuple[str, ...], bytes | None]:
        """A key, who has its secret, and the secret if it is in the file."""
        if self.random.random() < 0.2:
            seed = self.random.randbytes(32)
            return sodium.ed25519_public(seed), tuple(sorted(self.random.sample(others, 2))), seed
        name = self.random.choice(others)
        return self.world.keys[name], (name,), None

    def issue(self, name: str, to: str = "") -> None:
        """Somebody grants something, to anybody or to `to`."""
        node = self.world.honest[name]
        if not node.is_up:
            return
        others = [to] if to else [each for each in self.world.parties if each != name]
        key, holders, seed = (self.world.keys[to], (to,), None) if to else self._holder(others)
        terms = self._terms()
        mission = self.random.choice(MISSIONS)
        nonce = self.random.randbytes(8)
        sequence = node.grants.next_sequence
        bearer = seed is not None
        grant = issue(node.seed, key, mission, terms, nonce, sequence=sequence, bearer=bearer)
        node.grants.issued(grant, node.local())
        chain = Chain(
            data=grant.data,
            issuer=name,
            issuer_key=node.key,
            mission=mission,
            sequence=sequence,
            links=(_link(grant, terms),),
            holders=holders,
            bearer_seed=seed,
            delegable=terms.delegable,
            issued_up_s=node.rights.up_s(node.local()),
            lost_s=node.rights.lost_s,
        )
        if self.world.now:
            node.save(lambda: self._made(chain))
            self.world.fired["issue"] += 1
        else:
            node.save_now()
            self._made(chain)

    def _made(self, chain: Chain) -> None:
        self.chains.append(chain)
        self.world.ledger.made(chain)
        if chain.bearer_seed is None or set(chain.holders) & set(self.world.villains):
            self.world.ledger.known.append(chain.data)

    def narrow(self) -> None:
        """A holder hands on what he has, hostile ones too."""
        parents = [
            each for each in self.chains if each.delegable and each.issuer in self.world.honest
        ]
        if not parents:
            return
        parent = self.random.choice(parents)
        maker = self.world.parties[self.random.choice(parent.holders)]
        others = [each for each in self.world.parties if each not in (maker.name, parent.issuer)]
        key, holders, seed = self._holder(others)
        terms = self._terms()
        grant = decode_grant(parent.data)
        own = parent.bearer_seed or maker.seed
        nonce = self.random.randbytes(8)
        bearer = seed is not None
        try:
            made = narrow(grant, own, key, terms, nonce, bearer=bearer)
        except ValueError:  # that would be more
            terms = Terms()
            made = narrow(grant, own, key, terms, nonce, bearer=bearer)
        self.world.fired["narrow"] += 1
        self._made(
            Chain(
                data=made.data,
                issuer=parent.issuer,
                issuer_key=parent.issuer_key,
                mission=parent.mission,
                sequence=parent.sequence,
                links=(*parent.links, _link(made, terms)),
                holders=holders,
                bearer_seed=seed,
                delegable=terms.delegable,
                issued_up_s=parent.issued_up_s,
                lost_s=parent.lost_s,
            )
        )

    def revoke(self) -> None:
        """An issuer takes back: a link, a key or a mission."""
        node = self.world.honest[self.random.choice(list(self.world.honest))]
        chains = self.alive_of(node) if node.is_up else []
        if not chains:
            return
        chain = self.random.choice(chains)
        what: bytes | str = self.random.choice(chain.ids)
        kind = self.random.random()
        if kind < 0.25:
            what = self.random.choice(chain.links).holder
        elif kind < 0.45:
            what = chain.mission
        self.world.fired["revoke"] += node.revoke(what)

    def revoke_trudy(self) -> None:
        """She was trusted once."""
        for chain in self.chains:
            node = self.world.honest.get(chain.issuer)
            if chain.holders == ("trudy",) and node is not None and node.is_up:
                self.world.fired["revoke"] += node.revoke(self.world.keys["trudy"])

    def issue_more(self) -> None:
        """Somebody grants something."""
        self.issue(self.random.choice(list(self.world.honest)))

    def hostile_issue(self) -> None:
        """Mallory grants as well; what she answers is worth nothing."""
        villain = self.world.villains["mallory"]
        to = self.random.choice(list(self.world.honest))
        nonce = self.random.randbytes(8)
        grant = issue(villain.seed, self.world.keys[to], "kettle", Terms(), nonce, sequence=1)
        links = (_link(grant, Terms()),)
        chain = Chain(grant.data, "mallory", villain.key, "kettle", 1, links, (to,), None, 0)
        self.chains.append(chain)


def _link(grant: Grant, terms: Terms) -> Link:
    """The last link, as its maker wanted it."""
    return Link(
        id=grant.id,
        holder=grant.holder,
        functions=None if terms.functions is None else frozenset(terms.functions),
        rate=terms.rate,
        burst=terms.burst,
        concurrent=terms.concurrent,
        size=terms.bytes,
        expires_s=terms.expires_s,
    )
