"""Our half of the cases, a module for each group."""

from tests.oracle.cases import gen_server, groups, messages, processes, signals, supervisor

__all__ = ["gen_server", "groups", "messages", "processes", "signals", "supervisor"]
