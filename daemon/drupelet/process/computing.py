"""Work that computes: a process whose function runs in a thread or in another program.

Decides how: the process is an ordinary one (pid, links, monitors, exit signals); its only work is
to wait for the computation. Filled in by the functions below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

INLINE: Final = "inline"
THREAD: Final = "thread"
PROCESS: Final = "process"


def wrap(
    function: Callable[..., Any], args: Sequence[object], where: str
) -> tuple[Callable[..., Any], Sequence[object]]:
    """The function that waits for ``function(*args)``, which runs in a thread or program.

    Raises: `ValueError` for another place.
    """
    raise ValueError(f'where={where!r} is not known; use "{INLINE}", "{THREAD}" or "{PROCESS}"')
