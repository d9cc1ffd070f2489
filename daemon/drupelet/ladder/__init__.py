"""The ladder: the same program in one loop, one process, two processes, on two machines."""

from drupelet.ladder.cluster import Cluster, Conditions, open_cluster, simulate
from drupelet.ladder.diagram import draw
from drupelet.ladder.trace import Event, Message, Trace

__all__ = [
    "Cluster",
    "Conditions",
    "Event",
    "Message",
    "Trace",
    "draw",
    "open_cluster",
    "simulate",
]
