"""Drupelet: a cluster of Raspberry Pis that find each other and open one function at a time.

Names are loaded on first use: `import drupelet` alone costs nothing, so that the command line's
quick verbs start in a few milliseconds.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from drupelet import missions as missions
    from drupelet import net_kernel as net_kernel
    from drupelet.errors import Refused
    from drupelet.mission import Length, Range, at_start, cast, mission
    from drupelet.process import (
        ANY,
        Down,
        Exit,
        Mailbox,
        MailboxFull,
        NameTaken,
        NodeDown,
        NodeUp,
        Pid,
        ProcessDown,
        ProcessExit,
        ProxyPid,
        ReceiveTimeout,
        Ref,
        Request,
        Scope,
        TraceEvent,
        ask,
        become,
        cancel_timer,
        demonitor,
        disconnect_node,
        exit,
        flush,
        is_alive,
        is_process_alive,
        link,
        monitor,
        monitor_node,
        monitor_nodes,
        node,
        nodes,
        open_scope,
        ping,
        process_info,
        processes,
        read_timer,
        receive,
        register,
        registered,
        reply,
        run,
        self,
        send,
        send_after,
        send_nowait,
        spawn,
        spawn_link,
        spawn_monitor,
        trace,
        trap_exit,
        unlink,
        unregister,
        whereis,
    )
    from drupelet.process import code as code
    from drupelet.process import computing as computing
    from drupelet.process import pg as pg
    from drupelet.process import rpc as rpc
    from drupelet.process.behaviours import IGNORE
    from drupelet.process.children import Child, start_calls
    from drupelet.process.dynamic_supervisor import DynamicSupervisor
    from drupelet.process.gen_server import NOREPLY, GenServer, Stop
    from drupelet.process.gen_statem import KEEP_STATE, REPEAT_STATE, GenStatem
    from drupelet.process.supervisor import Supervisor

    GenFsm = GenStatem
    from drupelet.process.application import Application
    from drupelet.process.gen_event import GenEvent
    from drupelet.process.registry import Registry
    from drupelet.process.task import Task, TaskSupervisor

_MODULES = {  # from drupelet import rpc
    "chan": "drupelet.chan",
    "code": "drupelet.process.code",
    "computing": "drupelet.process.computing",
    "missions": "drupelet.missions",
    "net_kernel": "drupelet.net_kernel",
    "pg": "drupelet.process.pg",
    "rpc": "drupelet.process.rpc",
}

__all__ = [
    "ANY",
    "IGNORE",
    "KEEP_STATE",
    "NOREPLY",
    "REPEAT_STATE",
    "Application",
    "Child",
    "Down",
    "DynamicSupervisor",
    "Exit",
    "GenEvent",
    "GenServer",
    "GenStatem",
    "Length",
    "Mailbox",
    "MailboxFull",
    "NameTaken",
    "NodeDown",
    "NodeUp",
    "Pid",
    "ProcessDown",
    "ProcessExit",
    "ProxyPid",
    "Range",
    "ReceiveTimeout",
    "Ref",
    "Refused",
    "Registry",
    "Request",
    "Scope",
    "Stop",
    "Supervisor",
    "Task",
    "TaskSupervisor",
    "TraceEvent",
    "__version__",
    "ask",
    "at_start",
    "become",
    "cancel_timer",
    "cast",
    "code",
    "computing",
    "demonitor",
    "disconnect_node",
    "exit",
    "flush",
    "is_alive",
    "is_process_alive",
    "link",
    "mission",
    "missions",
    "monitor",
    "monitor_node",
    "monitor_nodes",
    "net_kernel",
    "node",
    "nodes",
    "open_scope",
    "pg",
    "ping",
    "process_info",
    "processes",
    "read_timer",
    "receive",
    "register",
    "registered",
    "reply",
    "rpc",
    "run",
    "self",
    "send",
    "send_after",
    "send_nowait",
    "spawn",
    "spawn_link",
    "spawn_monitor",
    "start_calls",
    "trace",
    "trap_exit",
    "unlink",
    "unregister",
    "whereis",
]

_HOMES = dict.fromkeys(__all__, "drupelet.process") | {
    "mission": "drupelet.mission",
    "cast": "drupelet.mission",
    "verb": "drupelet.mission",
    "at_start": "drupelet.mission",
    "Length": "drupelet.mission",
    "Range": "drupelet.mission",
    "Refused": "drupelet.errors",
    "IGNORE": "drupelet.process.behaviours",
    "Child": "drupelet.process.children",
    "start_calls": "drupelet.process.children",
    "DynamicSupervisor": "drupelet.process.dynamic_supervisor",
    "GenServer": "drupelet.process.gen_server",
    "NOREPLY": "drupelet.process.gen_server",
    "Stop": "drupelet.process.gen_server",
    "Supervisor": "drupelet.process.supervisor",
    "KEEP_STATE": "drupelet.process.gen_statem",
    "REPEAT_STATE": "drupelet.process.gen_statem",
    "GenStatem": "drupelet.process.gen_statem",
    "GenFsm": "drupelet.process.gen_statem",  # its former name; warns, so it is not in __all__
    "GenEvent": "drupelet.process.gen_event",
    "Task": "drupelet.process.task",
    "TaskSupervisor": "drupelet.process.task",
    "Registry": "drupelet.process.registry",
    "Application": "drupelet.process.application",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    home = _HOMES.get(name)
    if home is None or name == "__version__":
        raise AttributeError(f"module 'drupelet' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


class _Package(types.ModuleType):
    """`drupelet.mission` is a function and a module of that name; the function always wins.

    Python sets a submodule as attribute of its package when it is first imported, by whomever.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOMES and isinstance(value, types.ModuleType):
            if value.__name__ != _HOMES[name]:
                return  # drupelet.node, the module of daemons; the name is a function's
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
