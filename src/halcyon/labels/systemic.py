"""When failures are one failure: most calculations of a batch died of the same cause.

Then the fault is in the settings, the machine or the program, not in the frames, and going on
would burn the budget. What counts as alike:

- *crashed* and *timeout*, by the program's message, its numbers and paths left out: another frame's
  process number or folder does not make it another cause;
- *unconverged* only where not one calculation was good: that a wild frame does not converge says
  something of the frame;
- never *rejected*: nothing was computed, so nothing burns.

Not for: deciding whether a single label can be trusted (`sanity`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from halcyon.labels.reference.base import Status

FRACTION = 0.5
AT_LEAST = 4
"""The same failure in more than half of at least this many calculations is systemic."""
IN_A_ROW = 8
"""So is it from the first calculation on, this many times, without waiting for the others."""

NAMES = re.compile(r"\S*/\S*")
NUMBERS = re.compile(
    r"0x[0-9a-f]+|[-+]?\d+(?:[.:]\d+)*(?:e[-+]?\d+)?|\b[0-9a-f]{8,}\b", re.IGNORECASE
)


class SystemicFailure(Exception):  # noqa: N818 - the name says what it is
    """Most calculations of a batch died of the same cause: going on would burn the budget."""


def pattern(message: str) -> str:
    """A message without what differs from frame to frame: paths and numbers.

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
        expected: how many there will be; while there are fewer, only what cannot change any more
            counts, or `IN_A_ROW` of the same failure from the beginning.
        good_elsewhere: another shard of the batch has a good calculation.
    """
    done: Sequence[tuple[str, str]] = list(records)
    good = good_elsewhere or any(status == Status.OK for status, _ in done)
    kinds = Counter(
        (status, pattern(message))
        for status, message in done
        if status in (Status.CRASHED, Status.TIMEOUT) or (status == Status.UNCONVERGED and not good)
    )
    if not kinds:
        return None
    kind, count = kinds.most_common(1)[0]
    total = max(expected, len(done))
    # While calculations are to come, one of them may be good: then unconverged ones do not count.
    sure = len(done) == total or kind[0] != Status.UNCONVERGED
    most = sure and count >= AT_LEAST and count > FRACTION * total
    if not most and not (count == len(done) >= IN_A_ROW):
        return None
    words = next(message for status, message in done if (status, pattern(message)) == kind)
    return f"{count} of {len(done)} calculations failed alike: {words}"
