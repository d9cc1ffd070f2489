"""What people write for a grant's terms."""

from __future__ import annotations

import pytest

from drupelet.wire.grant_terms import functions_from_text, rate_from_text, span_from_text


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s", (10, 1)), ("10/m", (10, 60)), ("1/h", (1, 3_600)), ("5/d", (5, 86_400)),
        ("3/20s", (3, 20)), ("100/2h", (100, 7_200)), (" 10/m ", (10, 60)),
    ],
)  # fmt: skip
def test_rates(text: str, rate: tuple[int, int]) -> None:
    assert rate_from_text(text) == rate


@pytest.mark.parametrize(
    "text",
    [
        *("", "10", "/m", "10/", "10/x", "0/m", "-1/m", "10/0s", "1.5/s", "10/m/s", "m/10", "²/m"),
        *("1" * 11 + "/s", "1/" + "1" * 11 + "s", "9" * 5_000),
    ],
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate; it is calls/time: 10/s") as caught:
        rate_from_text(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600),
        (" 1d", 86_400), ("1" * 10 + "s", 1_111_111_111),
    ],
)  # fmt: skip
def test_spans(text: str, seconds: int) -> None:
    assert span_from_text(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "d", "0d", "-1d", "1.5h", "1d12h", "tomorrow", "3y", "1" * 11 + "s"]
)
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(ValueError, match="is no span of time; it is a number and a unit"):
        span_from_text(text)


def test_a_number_without_a_unit_is_asked_about() -> None:
    with pytest.raises(ValueError, match="30d for days"):
        span_from_text("30")


def test_functions() -> None:
    assert functions_from_text("temp") == ["temp"]
    assert functions_from_text("temp, Oven.heat") == ["temp", "Oven.heat"]
    for text in ("", ",", "temp,", "a,,b"):
        with pytest.raises(ValueError, match="names no function"):
            functions_from_text(text)
