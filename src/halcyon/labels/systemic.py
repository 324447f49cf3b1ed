"""Systemic failures: most calculations of a batch failed for the same reason.

    from halcyon.labels.systemic import cause

    cause([("crashed", "disk full")] * 8)  # "8 of 8 calculations failed alike: disk full"

Then the fault is in the settings, the machine or the program, not in the frames, and more
calculations would waste the budget. These failures count as the same:

- *crashed* and *timeout* with the same message, apart from numbers and paths: a process number or a
  folder differs from frame to frame;
- *unconverged*, but only where no calculation was good: a distorted frame may fail to converge by
  itself.

*Rejected* frames never count: nothing was computed for them.

Not for: deciding whether a single label can be trusted (`sanity`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from halcyon.labels.reference.base import Status

FRACTION = 0.5
AT_LEAST = 4
"""The same failure of at least so many calculations, and of more than this fraction of all, is
systemic."""
IN_A_ROW = 8
"""If the first so many calculations fail alike, the failure is systemic, however many follow."""

NAMES = re.compile(r"\S*/\S*")
NUMBERS = re.compile(
    r"0x[0-9a-f]+|[-+]?\d+(?:[.:]\d+)*(?:e[-+]?\d+)?|\b[0-9a-f]{8,}\b", re.IGNORECASE
)


class SystemicFailure(Exception):  # noqa: N818 - the name says what it is
    """Most calculations of a batch failed for the same reason: more would waste the budget."""


def pattern(message: str) -> str:
    """A message with paths and numbers, which differ from frame to frame, replaced.

    >>> pattern("no file /scratch/a1/cp2k.inp: 12 of 30 ranks died after 1.5e+03 s")
    'no file PATH # of # ranks died after # s'
    """
    return NUMBERS.sub("#", NAMES.sub("PATH", message)).strip()


def cause(
    records: Iterable[tuple[str, str]], *, expected: int = 0, good_elsewhere: bool = False
) -> str | None:
    """The failure that most calculations share, in words; None if there is none.

    Args:
        records: status and message of each calculation so far, in order.
        expected: how many there will be in all. As long as there are fewer, a failure is systemic
            only if the rest can no longer change that, or after `IN_A_ROW` from the first one on.
        good_elsewhere: whether another label job of the batch has a good calculation.
    """
    done: Sequence[tuple[str, str]] = list(records)
    good = good_elsewhere or any(status == Status.OK for status, _ in done)
    failures = Counter(
        (status, pattern(message))
        for status, message in done
        if status in (Status.CRASHED, Status.TIMEOUT) or (status == Status.UNCONVERGED and not good)
    )
    if not failures:
        return None
    failure, count = failures.most_common(1)[0]
    total = max(expected, len(done))
    # A later calculation may be good, and then unconverged ones do not count.
    final = len(done) == total or failure[0] != Status.UNCONVERGED
    most = final and count >= AT_LEAST and count > FRACTION * total
    if not most and not (count == len(done) >= IN_A_ROW):
        return None
    words = next(message for status, message in done if (status, pattern(message)) == failure)
    return f"{count} of {len(done)} calculations failed alike: {words}"
