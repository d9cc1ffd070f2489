"""The port mapper of this machine: be it, or register with whoever is.

Decides which of the two this daemon is, and when that changes.

- ``mapper``: we listen on every configured address. Our own name is the first in the table.
- ``client``: the port is taken (Erlang's epmd, another `drupeletd`); our name is registered there,
  as long as the connection stands. When it ends, all clients try to listen at once; the kernel lets
  one of them, the others register with it. Nothing is polled.
- ``taken``: that mapper holds our name for another living node. The node runs on without its entry
  and says so; it tries again with back-off.
- ``failed``: neither worked (no right to the port, something else listens there). As above.
- ``off``: not enabled.

All addresses or none: two mappers, one on 127.0.0.1 and the other on ::1, would each know half of
the names. The addresses are tried in the same order everywhere, so the first one arbitrates.
127.0.0.1 brings 127.0.1.1 along: Debian's /etc/hosts gives a host's own name that address, and
there `erl` looks for the mapper of a node on its own host.

*Owns*: one task, the table (`core/portmap.py`), the sockets (`net/epmd_server.py`). *Cancellation*:
closes them; a mapper that goes shows its clients the end of their connections.

Idea rejected: handing the table over to the successor (every entry lives with its own connection,
which cannot be handed over; the nodes register again by themselves).
"""

from __future__ import annotations

import errno
import logging
import math
import random
import resource
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, assert_never

import trio

from drupelet.config import PortMapperConfig
from drupelet.core.backoff import Backoff
from drupelet.core.portmap import Answer, Drop, NamesChanged, PortMap, PortMapStatistics, Watch
from drupelet.errors import ConfigError, NoConnection
from drupelet.net import epmd as mapper_client
from drupelet.net import ports
from drupelet.net.epmd_server import BACKLOG, EpmdServer
from drupelet.wire import epmd, limits

logger = logging.getLogger(__name__)

State = Literal["starting", "mapper", "client", "taken", "failed", "off"]

LINK_VERSION: Final = 1  # goes into the Extra field: what a peer's `why` knows before dialing
_RETRY_FIRST_S: Final = 0.05  # of several clients that race for the port, the winner needs < 10 ms
_RETRY_LAST_S: Final = 30.0  # a name that is taken, a port that is not ours: nothing is in a hurry
_TELL_INTERVAL_S: Final = (
    0.1  # `on_names` at most so often: 10,000 registrations are not 10,000 lists
)
_DESCRIPTORS_RESERVED: Final = 1_024  # for links, workers and files; the mapper leaves them alone
_DESCRIPTORS_WANTED: Final = limits.MAPPER_NAMES_MAX + _DESCRIPTORS_RESERVED
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # listen there, dial here


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapperStatistics:
    """`detail` says in a sentence what is wrong and the mend, "" when nothing is.

    `mapper_address` is where our name is registered when we are a client; `table` is None unless we
    are the mapper.
    """

    state: State
    detail: str
    mapper_address: str
    accept_errors: int
    table: PortMapStatistics | None


class PortMapper:
    """The port mapper service of one node.

    `name`: the node's, with or without ``@host``; `port`: that of its links; `on_names`: told all
    (name, port) when they change while we are the mapper, and once after registering as a client.
    """

    def __init__(
        self,
        config: PortMapperConfig,
        *,
        name: str,
        port: int,
        on_names: Callable[[list[tuple[str, int]]], None],
        version: int = LINK_VERSION,
    ) -> None:
        self._config = config
        self._listen = _with_host_name_address(config.listen)
        self._entry = epmd.MapperEntry(
            name=name.partition("@")[0], port=port, extra=epmd.extra_of(version)
        )
        self._on_names = on_names
        self._state: State = "starting" if config.enabled else "off"
        self._detail = ""
        self._warned = ""  # the detail that was logged
        self._mapper_address = ""
        self._table: PortMap | None = None
        self._server: EpmdServer | None = None
        self._names: list[tuple[str, int]] = []
        self._tell_at = math.inf
        self._told_at = -math.inf
        self._backoff = Backoff(_RETRY_FIRST_S, _RETRY_LAST_S, random.random)

    def state(self) -> State:
        """What this node is to the port mapper now."""
        return self._state

    def names(self) -> list[tuple[str, int]]:
        """(name, port) known here: the table, or as a client what the mapper said at our entry."""
        return list(self._names) if self._table is None else self._table.names()

    async def current_names(self) -> list[tuple[str, int]]:
        """As `names`, but a client asks its mapper. Raises: `NoConnection`."""
        if self._table is None and self._state in ("client", "taken"):
            self._names = await mapper_client.names(self._mapper_address, port=self._config.port)
        return self.names()

    def statistics(self) -> PortMapperStatistics:
        """For `drupelet status` and `drupelet why`."""
        return PortMapperStatistics(
            state=self._state,
            detail=self._detail,
            mapper_address=self._mapper_address,
            accept_errors=0 if self._server is None else self._server.accept_errors,
            table=None if self._table is None else self._table.statistics(),
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the mapper or its client, until cancelled. Started when it is known which."""
        if not self._config.enabled:
            task_status.started()
            return
        started = False

        def ready() -> None:
            nonlocal started
            if not started:
                started = True
                task_status.started()

        lost = False
        while True:
            taken_at = await self._try_to_serve(ready)
            if taken_at and not lost:
                lost = await self._be_client(taken_at, ready)
                if lost:
                    continue  # the mapper may have gone: try to listen at once
            ready()
            lost = False
            await trio.sleep(self._backoff.next_delay_s())

    # -- the mapper

    async def _try_to_serve(self, ready: Callable[[], None]) -> str:
        """Serve for ever, or return the address where somebody else does, "" when neither works."""
        try:
            bound = ports.open_on_all(self._listen, self._config.port, backlog=BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return str(error.filename)
            self._set_failed(
                f"cannot listen on {error.filename or 'any address'} port {self._config.port}: "
                f"{error.strerror}; mend [portmapper] listen and port"
            )
            return ""
        except ConfigError as error:
            self._set_failed(str(error))
            return ""
        self._table = PortMap(
            mapper_port=self._config.port,
            creation=secrets.randbits(32),
            names_max=_descriptors_to_spare(),
        )
        self._server = EpmdServer(bound.sockets)
        try:
            self._set_state("mapper")
            self._table.register_own(self._entry)
            self._perform(self._table, self._server)
            self._tell()
            ready()
            await self._serve(self._table, self._server)
        finally:
            self._server.close()
            self._table = self._server = None
        return ""

    async def _serve(self, table: PortMap, server: EpmdServer) -> None:
        while True:
            arrivals = await server.wait(min(table.next_timer(), self._tell_at))
            now = trio.current_time()
            for connection, data, local in arrivals:
                if not server.is_open(connection):
                    continue  # put out earlier in this pass
                if data:
                    table.receive(connection, data, now, local=local)
                elif data is None:
                    table.accepted(connection, now)
                else:
                    table.closed(connection)
                    server.drop(connection)
                self._perform(table, server)
            if now >= table.next_timer():
                table.handle_timer(now)
                self._perform(table, server)
            if now >= self._tell_at:
                self._tell()

    def _perform(self, table: PortMap, server: EpmdServer) -> None:
        while effects := table.take_effects():
            for effect in effects:
                match effect:
                    case Answer():
                        sent = server.answer(effect.connection, effect.data, keep=effect.keep)
                        if effect.keep and not sent:
                            table.closed(effect.connection)
                    case Watch():
                        server.watch(effect.connection)
                    case Drop():
                        server.drop(effect.connection)
                    case NamesChanged():
                        self._tell_at = min(self._tell_at, self._told_at + _TELL_INTERVAL_S)
                    case _:
                        assert_never(effect)

    def _tell(self) -> None:
        self._tell_at = math.inf
        self._told_at = trio.current_time()
        self._names = self.names()
        self._on_names(list(self._names))

    # -- a client of another mapper

    async def _be_client(self, address: str, ready: Callable[[], None]) -> bool:
        """Hold our name at `address` until that mapper goes. Returns whether it was ever held."""
        self._mapper_address = _ANY_ADDRESS.get(address, address)
        try:
            registration = await mapper_client.register(
                self._mapper_address, self._entry, port=self._config.port
            )
        except mapper_client.NameTaken as error:
            self._set_state("taken", str(error))
            return False
        except NoConnection:
            self._set_failed(
                f"port {self._config.port} at {self._mapper_address} is taken by something that is "
                "no port mapper; stop it, or choose another [portmapper] port on all nodes"
            )
            return False
        held_since = trio.current_time()
        try:
            self._set_state("client")
            await self._fetch_names()
            ready()
            await registration.wait_lost()
        finally:
            registration.close()
        if trio.current_time() - held_since >= _RETRY_LAST_S:
            self._backoff.reset()  # a mapper that takes us and lets go at once does not reset it
        logger.info("port mapper gone at=%s, taking over", self._mapper_address)
        self._set_state("starting")
        return True

    async def _fetch_names(self) -> None:
        try:
            self._names = await mapper_client.names(self._mapper_address, port=self._config.port)
        except NoConnection:
            self._names = [(self._entry.name, self._entry.port)]
        self._on_names(list(self._names))

    # -- state

    def _set_failed(self, detail: str) -> None:
        self._set_state("failed", detail)

    def _set_state(self, state: State, detail: str = "") -> None:
        # A mapper that ends between our bind and our connect fails us once: warn the second time.
        if detail not in ("", self._warned) and (state != "failed" or self._state == "failed"):
            self._warned = detail
            logger.warning("port mapper: %s, running without an entry", detail)
        if state in ("mapper", "client"):
            self._warned = ""
        if state != self._state:
            logger.debug("port mapper state=%s before=%s", state, self._state)
        self._state = state
        self._detail = detail
        if state == "mapper":
            self._mapper_address = ""


def _with_host_name_address(listen: tuple[str, ...]) -> tuple[str, ...]:
    if "127.0.0.1" not in listen or not {"127.0.1.1", "0.0.0.0"}.isdisjoint(listen):
        return listen
    return (*listen, "127.0.1.1")


def _descriptors_to_spare() -> int:
    """How many names may be held: each takes a descriptor. Raises this process's soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (
        _DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS_WANTED, hard)
    )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft == resource.RLIM_INFINITY:
        return limits.MAPPER_NAMES_MAX
    # Half of a small limit: 512 names where a process may have 1,024 descriptors in all.
    return min(limits.MAPPER_NAMES_MAX, max(soft - _DESCRIPTORS_RESERVED, soft // 2))
