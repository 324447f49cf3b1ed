"""Which signals saw the errors of an audit: AUROC, and the share of bad atoms that they flag.

    from halcyon.verdict.signal_reports import signal_reports

    signal_reports(frames, {"latent": 1.0}, tolerance_eV_per_A=0.3, deciding="latent")

Not for: how large the errors are (`audit`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from halcyon.verdict.audit import FEWEST_REPLICAS, group_of, usable
from halcyon.verdict.between_replicas import spread_of_mean, student
from halcyon.verdict.estimates import CONFIDENCE, Estimate, Outcome
from halcyon.verdict.forms import SignalReport

DISTANCE = "distance_"
"""Beginning of the names of arrays with a signal's distances."""
EXPECTED = "error"
"""Name of the expected error among the signals."""
SECOND = "second_opinion"
"""Name of the second opinion's predicted error among the signals."""
FEWEST_ATOMS = 5
"""With fewer bad atoms, or fewer good ones, there is no AUROC."""
SEEING = 0.7
"""A signal is not called blind from this AUROC on, however wide the interval is."""


def signal_reports(
    frames: Sequence[Atoms],
    limits: Mapping[str, float],
    *,
    tolerance_eV_per_A: float,
    deciding: str,
    opinions: Sequence[Atoms] = (),
) -> list[SignalReport]:
    """How well each signal told bad forces from good ones on audit frames.

    Args:
        frames: as for `assess_audit`, with arrays `distance_<signal>` and `expected_error`, (N,).
        limits: distance over which an atom is outside, by signal; that of the expected error is
            the tolerance.
        tolerance_eV_per_A: an atom whose force error is over it is bad.
        deciding: name of the signal that the index counts by.
        opinions: as for `assess_audit`; the second opinion is reported like a signal.

    Returns:
        The expected error first, where the frames have it, then the signals by name, and the second
        opinion last.
    """
    good = [frame for frame in frames if usable(frame)]
    present = {name for frame in good for name in frame.arrays}
    limits = dict(limits) | {EXPECTED: tolerance_eV_per_A}
    names = [EXPECTED] if "expected_error" in present else []
    names += sorted(
        name.removeprefix(DISTANCE)
        for name in present
        if name.startswith(DISTANCE) and name.removeprefix(DISTANCE) in limits
    )
    reports = []
    for name in names:
        array = "expected_error" if name == EXPECTED else DISTANCE + name
        measured = [frame for frame in good if array in frame.arrays]
        reports.append(
            _report(
                name,
                measured,
                array,
                limits[name],
                tolerance_eV_per_A,
                decides=name == deciding,
            )
        )
    if second := _with_second_errors(good, opinions):
        reports.append(
            _report(SECOND, second, SECOND, tolerance_eV_per_A, tolerance_eV_per_A, decides=False)
        )
    return reports


def _with_second_errors(frames: Sequence[Atoms], opinions: Sequence[Atoms]) -> list[Atoms]:
    """Copies of the frames of which the second Hamiltonian has forces, with the error it predicts.

    The array `SECOND` has the length of the predicted difference of each atom's force, eV/Å, (N,).
    """
    by_draw = {
        (*group_of(frame), frame.info["draw"]): frame
        for frame in opinions
        if "second_forces" in frame.arrays
    }
    judged = []
    for frame in frames:
        opinion = by_draw.get((*group_of(frame), frame.info.get("draw")))
        if opinion is not None:
            difference = opinion.arrays["model_forces"] - opinion.arrays["second_forces"]
            copy = frame.copy()
            copy.info = dict(frame.info)
            copy.arrays[SECOND] = np.linalg.norm(difference, axis=1)
            judged.append(copy)
    return judged


def _report(
    name: str,
    frames: Sequence[Atoms],
    array: str,
    limit: float,
    tolerance_eV_per_A: float,
    *,
    decides: bool,
) -> SignalReport:
    """The report of one signal on frames that have its distances."""
    error = np.concatenate(
        [np.linalg.norm(f.arrays["model_forces"] - f.arrays["forces"], axis=1) for f in frames]
    )
    distance = np.concatenate([np.asarray(f.arrays[array], dtype=float) for f in frames])
    sizes = [len(frame) for frame in frames]
    replica = np.repeat([frame.info["replica"] for frame in frames], sizes)
    frame_of = np.repeat(np.arange(len(frames)), sizes)
    bad, outside = error > tolerance_eV_per_A, distance > limit
    auroc = _auroc(distance, bad, replica, frame_of)
    blind = (
        auroc.outcome is Outcome.ESTIMATED
        and auroc.value is not None
        and auroc.low is not None
        and auroc.low <= 0.5
        and auroc.value < SEEING
    )
    return SignalReport(
        name=name,
        decides=decides,
        atoms=len(error),
        bad_atoms=int(bad.sum()),
        auroc=auroc,
        flagged=_share(outside[bad], replica[bad], frame_of[bad]),
        false_alarms=_share(outside[~bad], replica[~bad], frame_of[~bad]),
        blind=bool(blind),
    )


def _auroc(
    distance: np.ndarray, bad: np.ndarray, replica: np.ndarray, frame_of: np.ndarray
) -> Estimate:
    """Probability that a bad atom has a greater distance than a good one; ties count half.

    Its spread between replicas: N. A. Obuchowski, Biometrics 53, 567 (1997).
    """
    from scipy import stats

    numbers = int(bad.sum()), int((~bad).sum())
    if min(numbers) < FEWEST_ATOMS or len(np.unique(replica)) < FEWEST_REPLICAS:
        return Estimate(outcome=Outcome.NOT_ENOUGH_DATA)
    ranks = stats.rankdata(distance)
    placed = np.empty(len(distance))
    # Of each bad atom the part of good ones below it, of each good atom that of bad ones above it.
    placed[bad] = (ranks[bad] - stats.rankdata(distance[bad])) / numbers[1]
    placed[~bad] = 1 - (ranks[~bad] - stats.rankdata(distance[~bad])) / numbers[0]
    value = float(placed[bad].mean())
    weight = np.where(bad, 1 / numbers[0], 1 / numbers[1])
    return _of_share(value, (placed - value) * weight, replica, len(np.unique(frame_of[bad])))


def _share(flags: np.ndarray, replica: np.ndarray, frame_of: np.ndarray) -> Estimate:
    """The part of atoms that are outside."""
    if len(flags) < FEWEST_ATOMS or len(np.unique(replica)) < FEWEST_REPLICAS:
        return Estimate(outcome=Outcome.NOT_ENOUGH_DATA)
    value = float(flags.mean())
    return _of_share(value, (flags - value) / len(flags), replica, len(np.unique(frame_of)))


def _of_share(value: float, influence: np.ndarray, replica: np.ndarray, frames: int) -> Estimate:
    """A number between 0 and 1 with its interval: Student's, of its log-odds, between replicas.

    At 0 or 1 there is no spread: it then counts as measured on so many independent frames
    (C. J. Clopper, E. S. Pearson, Biometrika 26, 404, 1934).

    Args:
        value: the number.
        influence: what each atom adds to its deviation; their sum is 0.
        replica: of each atom.
        frames: number of frames that the atoms are of.
    """
    from scipy import special, stats

    tail = (1 - CONFIDENCE) / 2
    spread = spread_of_mean(influence, replica) * len(influence)
    if value in (0.0, 1.0) or spread == 0:
        successes = round(value * frames)
        interval = stats.binomtest(successes, frames).proportion_ci(CONFIDENCE)
        low, high = float(interval.low), float(interval.high)
    else:
        step = student(replica, 1 - tail) * spread / (value * (1 - value))
        low, high = (float(special.expit(special.logit(value) + end)) for end in (-step, step))
    return Estimate(outcome=Outcome.ESTIMATED, value=value, low=low, high=high)
