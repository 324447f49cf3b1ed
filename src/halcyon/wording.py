"""Numbers, durations and plurals in the words that people read, the same everywhere.

    from halcyon.wording import count, duration, significant

    duration(212)  # "3.5 min"
    count(1, "replica")  # "1 replica"
    significant(0.020831)  # "0.0208"

Not for: sentences about a campaign (`report.sentences`), or what a value means.
"""

import math
from collections.abc import Iterable

LARGE = 99_950
"""From here on three digits round to 100,000, and a number is written with a power of ten."""
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def duration(seconds: float) -> str:
    """A wall time: `42 s`, `3.5 min`, `2.1 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: `1 frame`, `3 frames`, `2 analyses` (its plural is given)."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def significant(value: float) -> str:
    """Three significant digits; large numbers are written out, without a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def number_text(value: float | None, *, digits: int = 3) -> str:
    """A number with so many significant digits; a dash where there is none.

    It is written out below 100,000; above, there are two digits: `1.2·10⁶`.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < LARGE:
        return significant(float(f"{value:.{digits}g}"))
    factor, power = f"{value:.1e}".split("e")
    return f"{factor.removesuffix('.0')}·10{str(int(power)).translate(SUPERSCRIPTS)}"


def rounded_down(value: float) -> str:
    """Two significant digits of a positive number, rounded down: a claim is never rounded up."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return significant(math.floor(value / unit + 1e-9) * unit)


def per_cent(fraction: float) -> str:
    """`95 %`, `99.9 %`: a fraction as a percentage."""
    return f"{fraction * 100:g} %"


def listed(words: Iterable[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, end = list(words)
    return f"{', '.join(first)} {last} {end}" if first else end
