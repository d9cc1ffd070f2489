"""Our half of the cases, a module for each group."""

from tests.oracle.cases import messages, processes, signals

__all__ = ["messages", "processes", "signals"]
