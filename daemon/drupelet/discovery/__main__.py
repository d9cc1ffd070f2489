"""`python -m drupelet.discovery`."""

from __future__ import annotations

import sys

from drupelet.discovery.main import main

sys.exit(main())
