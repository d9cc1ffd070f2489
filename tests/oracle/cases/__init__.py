"""Our half of the cases, a module for each group."""

from tests.oracle.cases import (
    aliases,
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
    "aliases",
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
