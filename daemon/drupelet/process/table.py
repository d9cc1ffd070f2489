"""Processes and their mailboxes: what a runtime remembers of each process, and the order of it.

Decides what a mailbox takes, in which order a selective receive looks, and what happens when it is
full. Knows no trio: `Process.task` and what waits are opaque here.

Policies of a full mailbox
- ``block``: a sender waits for room (on another node: its runtime is told to hold back);
- ``drop_new``, ``drop_old``: the new or the oldest message is dropped and counted;
- ``exit``: the receiver ends with the reason "mailbox_full".

Notices of the system (Down, Exit, NodeDown) are always taken: a process has at most RELATIONS_MAX
links and monitors. What was on its way from other nodes when they were told to hold back is taken
up to SLACK messages above the limit; what comes beyond is dropped and counted (exit signals for who
traps them as well; by a name whose node is written in another form, ``bob@192.168.1.7``, senders
are not held back before). A process that waits for something else with a full mailbox takes WAITED
messages more from elsewhere before it tells them to hold back.

References: Erlang's unbounded mailbox is what this replaces (a Pi has 512 MB); Akka's bounded one.
Rejected: a memory channel per process (1.4 kB each, and no selective receive).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from drupelet.wire.ids import Pid, ProxyPid, Ref

if TYPE_CHECKING:
    import trio

    from drupelet.process.kernel import Kernel
    from drupelet.process.mailboxes import Parked

LIMIT: Final = 10_000
LIMIT_MAX: Final = 1_000_000
SLACK: Final = 65_536  # small messages that fit the windows between two nodes
WAITED: Final = SLACK // 8
RELATIONS_MAX: Final = 100_000  # links and monitors of one process, each way

BLOCK: Final = "block"
DROP_NEW: Final = "drop_new"
DROP_OLD: Final = "drop_old"
EXIT: Final = "exit"
_POLICIES: Final = (BLOCK, DROP_NEW, DROP_OLD, EXIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailbox:
    """How many messages a process keeps (1 to 1,000,000), and what happens to the next one.

    Raises: `ValueError` for another limit or policy.
    """

    limit: int = LIMIT
    policy: str = BLOCK

    def __post_init__(self) -> None:
        if type(self.limit) is not int or not 1 <= self.limit <= LIMIT_MAX:
            raise ValueError(f"a mailbox holds 1 to {LIMIT_MAX:,} messages, not {self.limit!r}")
        if self.policy not in _POLICIES:
            raise ValueError(f"policy={self.policy!r} is not known; use one of {_POLICIES}")


DEFAULT_MAILBOX: Final = Mailbox()


class Process:
    """One process. Fields are lazy: an idle one has no queue, no sets."""

    __slots__ = (
        "adopted",
        "dropped_count",
        "exit_reason",
        "exiting",
        "function",
        "limit",
        "link_marks",
        "links",
        "looked",
        "messages",
        "monitors",
        "names",
        "parent",
        "pid",
        "policy",
        "received_count",
        "reductions",
        "related",
        "runtime",
        "scope",
        "senders",
        "silenced",
        "state",
        "task",
        "tracers",
        "trap_exit",
        "waiting",
        "wanted",
        "wants_code",
        "watchers",
    )

    def __init__(self, runtime: Kernel, pid: Pid, function: object, mailbox: Mailbox) -> None:
        self.runtime = runtime
        self.pid = pid
        self.function = function
        self.parent: Pid | None = None
        self.limit = mailbox.limit
        self.policy = mailbox.policy
        self.messages: deque[object] | None = None
        self.looked = 0  # so many were looked at and do not fit `wanted`
        self.waiting: object = None  # the task that is in receive
        self.wanted: object = None  # its pattern
        self.wants_code = False  # whether that runs the author's code
        self.senders: deque[Parked] | None = None  # tasks of this runtime that wait for room
        self.silenced: set[Pid] | None = None  # runtimes elsewhere that were told to hold back
        self.links: set[Pid] | None = None
        # of links to elsewhere: the refs of the last LINK that we sent, and that we got
        self.link_marks: dict[Pid, tuple[int, int]] | None = None
        self.monitors: dict[Ref, Pid | ProxyPid | tuple[str, str]] | None = None  # who we watch
        self.watchers: dict[object, Pid] | None = None  # who watches us, by their ref
        self.names: list[str] | None = None
        self.tracers: list[Callable[[Pid, str, object, object], None]] | None = None
        self.trap_exit = False
        self.exiting = False  # told to end, and still unwinding
        self.exit_reason: object = None
        self.adopted = False  # a task that became a process by asking for its pid
        self.task: object = None
        self.scope: trio.CancelScope | None = None
        self.state: object = None  # what a behaviour keeps for process_info
        self.related: set[tuple[str, int]] | None = None  # nodes with which it has relations
        self.reductions = 0
        self.received_count = 0
        self.dropped_count = 0

    @property
    def alive(self) -> bool:
        """Whether it still runs, and was not told to end."""
        return not self.exiting and self.pid.number in self.runtime.processes

    @property
    def relations(self) -> int:
        """How many links and monitors it has, both ways."""
        return len(self.links or ()) + len(self.monitors or ()) + len(self.watchers or ())
