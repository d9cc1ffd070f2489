"""Process groups, as OTP's `pg`: ``from drupelet import pg``.

Decides names and arguments; `groups.py` has what is known and how. A group is made by its first
member and gone with its last; it is named by a text, a number or a tuple of such. Groups of one
scope know nothing of another scope's.

    pg.join("printers")                     # this process
    for pid in pg.get_members("printers"):  # of the whole cluster
        await send(pid, job)

Rules: only processes of this program may be joined by it; a pid may join twice; a member that ends
has left; every runtime of the cluster knows of a change within a second, as of a node that comes
or goes. Within that second two runtimes may know different members: a group is a hint, no lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from drupelet.process.current import this_process, this_runtime
from drupelet.process.groups import ALL, SCOPE, Groups
from drupelet.wire.ids import Pid, Ref, check_plain_name

__all__ = [
    "demonitor",
    "get_local_members",
    "get_members",
    "join",
    "leave",
    "monitor",
    "monitor_scope",
    "which_groups",
    "which_local_groups",
]

Pids = Pid | Sequence[Pid] | None


def join(group: object, pids: Pids = None, *, scope: str = SCOPE) -> None:
    """Processes of this program (None: this one) become members.

    Raises: `ValueError` for a process that is not of this program, what names no group or scope,
    or one more than the maxima of wire/limits.py.
    """
    _groups().join(scope, group, _pids(pids))


def leave(group: object, pids: Pids = None, *, scope: str = SCOPE) -> bool:
    """They are no members any more (each joins once less); False when none of them was."""
    return _groups().leave(scope, group, _pids(pids))


def get_members(group: object, *, scope: str = SCOPE) -> list[Pid]:
    """Every member in the cluster; who joined twice is in it twice."""
    return _groups().members(scope, group)


def get_local_members(group: object, *, scope: str = SCOPE) -> list[Pid]:
    """The members on this node, of this program and of its others."""
    node = this_runtime().node
    return [pid for pid in get_members(group, scope=scope) if _is_on(pid, node)]


def which_groups(*, scope: str = SCOPE) -> list[object]:
    """The groups that have members."""
    return _groups().groups(scope)


def which_local_groups(*, scope: str = SCOPE) -> list[object]:
    """The groups that have members of this program."""
    return _groups().groups(scope, local=True)


def monitor(group: object, *, scope: str = SCOPE) -> tuple[Ref, list[Pid]]:
    """Its members now, and from now on a message ``(ref, "join" | "leave", group, pids)``."""
    groups = _groups()
    ref = groups.monitor(this_process(), scope, group)
    return ref, groups.members(scope, group)


def monitor_scope(*, scope: str = SCOPE) -> tuple[Ref, dict[object, list[Pid]]]:
    """As `monitor`, of every group of a scope: also of those that come later."""
    groups = _groups()
    ref = groups.monitor(this_process(), check_plain_name(scope), ALL)
    return ref, {group: groups.members(scope, group) for group in groups.groups(scope)}


def demonitor(ref: Ref) -> bool:
    """No more such messages; those that came stay. False when that is no monitor of a group."""
    return _groups().demonitor(ref)


def _groups() -> Groups:
    return cast(Groups, this_runtime().groups)


def _pids(pids: Pids) -> list[Pid]:
    if pids is None:
        return [this_process().pid]
    if isinstance(pids, Pid):
        return [pids]
    found = list(pids)
    for pid in found:
        if not isinstance(pid, Pid):
            raise ValueError(f"a member is a Pid, not {pid!r:.100}")
    return found


def _is_on(pid: Pid, node: str) -> bool:
    return pid.node == node or this_runtime().is_local(pid)
