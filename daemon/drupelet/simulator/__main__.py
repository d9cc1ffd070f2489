"""``python -m drupelet.simulator``: see `drupelet.simulator.main`."""

from __future__ import annotations

import sys

from drupelet.simulator.main import main

if __name__ == "__main__":
    sys.exit(main())
