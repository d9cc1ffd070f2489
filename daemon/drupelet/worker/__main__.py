"""``python -m drupelet.worker --fd=N``: see `drupelet.worker.main`."""

from __future__ import annotations

from drupelet.worker.main import main

if __name__ == "__main__":
    main()
