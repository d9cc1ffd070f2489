"""Our half of the cases, a module for each group."""

from tests.oracle.cases import (
    aliases,
    applications,
    gen_event,
    gen_server,
    gen_statem,
    groups,
    messages,
    nodes,
    processes,
    remote,
    restarts,
    server_life,
    signals,
    statem_life,
    supervisor,
)

SEVERAL_NODES = ("nodes", "remote")  # run in one go, on three nodes: test_nodes.py

__all__ = [
    "SEVERAL_NODES",
    "aliases",
    "applications",
    "gen_event",
    "gen_server",
    "gen_statem",
    "groups",
    "messages",
    "nodes",
    "processes",
    "remote",
    "restarts",
    "server_life",
    "signals",
    "statem_life",
    "supervisor",
]
