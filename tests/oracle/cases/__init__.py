"""Our half of the cases, a module for each group."""

from tests.oracle.cases import (
    gen_server,
    groups,
    messages,
    nodes,
    processes,
    remote,
    server_life,
    signals,
    supervisor,
)

SEVERAL_NODES = ("nodes", "remote")  # run in one go, on three nodes: test_nodes.py

__all__ = [
    "SEVERAL_NODES",
    "gen_server",
    "groups",
    "messages",
    "nodes",
    "processes",
    "remote",
    "server_life",
    "signals",
    "supervisor",
]
