"""Fixtures for every tier. The guards are in tests/guards.py."""

from __future__ import annotations

import pytest

from tests.guards import (  # noqa: F401  (hooks and fixtures: importing them loads them)
    nothing_left_behind,
    pytest_configure,
    pytest_report_header,
    seed,
)
from tests.people import ALICE, BOB, MALLORY, Person


@pytest.fixture
def alice() -> Person:
    return ALICE


@pytest.fixture
def bob() -> Person:
    return BOB


@pytest.fixture
def mallory() -> Person:
    return MALLORY
