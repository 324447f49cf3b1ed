"""Numbers and durations in words."""

import pytest

from halcyon.wording import (
    count,
    duration,
    listed,
    number_text,
    per_cent,
    rounded_down,
    significant,
)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (duration(42.4), "42 s"),
        (duration(212), "3.5 min"),
        (duration(7500), "2.1 h"),
        (count(1, "replica"), "1 replica"),
        (count(0, "frame"), "0 frames"),
        (count(12000, "frame"), "12,000 frames"),
        (count(2, "analysis", "analyses"), "2 analyses"),
        (significant(0.020831), "0.0208"),
        (significant(12345.6), "12,346"),
        (rounded_down(5.39), "5.3"),
        (rounded_down(0.0299), "0.029"),
        (rounded_down(7.0), "7"),
        (per_cent(0.95), "95 %"),
        (per_cent(0.999), "99.9 %"),
        (listed(["a"]), "a"),
        (listed(["a", "b"]), "a and b"),
        (listed(["a", "b", "c"], "or"), "a, b or c"),
    ],
)
def test_in_words(words, expected):
    assert words == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.020831, "0.0208"),
        (1753.4, "1,750"),
        (99_949, "99,900"),
        (99_951, "1·10⁵"),
        (1_213_456.7, "1.2·10⁶"),
        (-3e12, "-3·10¹²"),
        (float("inf"), "–"),
        (None, "–"),
    ],
)
def test_numbers_have_three_digits_and_large_ones_two(value, text):
    assert number_text(value) == text
