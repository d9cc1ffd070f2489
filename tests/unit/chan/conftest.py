"""The services that the confs of these tests name, importable while a test runs."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec

import pytest

from tests.unit.chan.serving import echo


@pytest.fixture(autouse=True)
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("chan_test_services")
    module.echo = echo  # type: ignore[attr-defined]
    module.__spec__ = ModuleSpec("chan_test_services", None)
    monkeypatch.setitem(sys.modules, "chan_test_services", module)
    yield
    for name in [name for name in sys.modules if name.startswith("chan_service_")]:
        del sys.modules[name]
