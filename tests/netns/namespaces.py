"""What everything that makes namespaces needs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]
COMMAND_S: Final = 10.0


def ip(*arguments: str) -> None:
    """Run ``ip``. Raises: `subprocess.SubprocessError`."""
    subprocess.run(
        ["ip", *arguments],
        check=True,
        timeout=COMMAND_S,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
