"""The course: twelve lessons in their order, each a program, its checks and its exercises.

Decides only the order. The programs (daemon/lessons) hold title, idea and code; what must hold of
them is in `one_node.py` and `many_nodes.py`; TUTORIAL.md tells the story.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drupelet.cli.lessons import many_nodes, one_node
from drupelet.cli.lessons.checks import Check
from drupelet.cli.lessons.program import FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One lesson. `exercises` are checked on a learner's own file, in the simulator."""

    number: int
    name: str
    nodes: int = 1  # that a real cluster must have
    breaks: bool = False  # its main(cluster) kills or cuts nodes
    checks: Sequence[Check]
    exercises: Sequence[Check]

    @property
    def file(self) -> Path:
        """The program as the course has it."""
        return FOLDER / f"lesson{self.number:02}_{self.name}.py"


LESSONS: Final = (
    Lesson(number=1, name="hello", checks=one_node.HELLO, exercises=one_node.HELLO_EXERCISES),
    Lesson(number=2, name="mailbox", checks=one_node.MAILBOX, exercises=one_node.MAILBOX_EXERCISES),
    Lesson(number=3, name="counter", checks=one_node.COUNTER, exercises=one_node.COUNTER_EXERCISES),
    Lesson(
        number=4,
        name="genserver",
        checks=one_node.GENSERVER,
        exercises=one_node.GENSERVER_EXERCISES,
    ),
    Lesson(number=5, name="links", checks=one_node.LINKS, exercises=one_node.LINKS_EXERCISES),
    Lesson(
        number=6,
        name="monitors",
        checks=one_node.MONITORS,
        exercises=one_node.MONITORS_EXERCISES,
    ),
    Lesson(
        number=7,
        name="supervisor",
        checks=one_node.SUPERVISOR,
        exercises=one_node.SUPERVISOR_EXERCISES,
    ),
    Lesson(
        number=8,
        name="two_nodes",
        nodes=2,
        checks=many_nodes.TWO_NODES,
        exercises=many_nodes.TWO_NODES_EXERCISES,
    ),
    Lesson(
        number=9,
        name="names",
        nodes=3,
        checks=many_nodes.NAMES,
        exercises=many_nodes.NAMES_EXERCISES,
    ),
    Lesson(number=10, name="slow", checks=many_nodes.SLOW, exercises=many_nodes.SLOW_EXERCISES),
    Lesson(
        number=11,
        name="node_dies",
        nodes=3,
        breaks=True,
        checks=many_nodes.NODE_DIES,
        exercises=many_nodes.NODE_DIES_EXERCISES,
    ),
    Lesson(
        number=12,
        name="split_brain",
        nodes=3,
        breaks=True,
        checks=many_nodes.SPLIT_BRAIN,
        exercises=many_nodes.SPLIT_BRAIN_EXERCISES,
    ),
)
