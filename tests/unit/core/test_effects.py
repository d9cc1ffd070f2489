"""core/effects.py: plain frozen data."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from drupelet.core import effects

KINDS = (*get_args(effects.MembershipEffect), *get_args(effects.ConnectionEffect))


@pytest.mark.parametrize("kind", KINDS)
def test_an_effect_is_frozen_and_has_slots(kind: type) -> None:
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert hasattr(kind, "__slots__")


def test_equal_by_value() -> None:
    assert effects.CloseLink(1, "closed") == effects.CloseLink(1, "closed")
    assert effects.CloseLink(1, "closed") != effects.CloseLink(1, "duplicate")
