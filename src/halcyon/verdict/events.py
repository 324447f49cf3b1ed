"""Events of replicas in the late window, and bounds of their rate.

    from halcyon.verdict.events import least_bound_per_ns

    # Events per ns and molecule
    least_bound_per_ns(8, window_ps=15.0, molecules=1, confidence=0.99)

An *event* is activity of a replica (some atom is unreliable) with everything that follows within
the quiet time. Only while a replica is calm can an event begin: the rate is the number of events
over that time, so that events which overlap in a large box are not missed, and a replica that is
active all the time is no harmless single event but one that shows nothing.

Replicas are the units. Their rates differ, and with few events nobody can see by how much: the
bound takes them to be gamma distributed, with a standard deviation of √2 times their mean unless
the events show more or less (`evenness`).

Not for: whether an exploration is calm (`calm`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

ASSUMED_SHAPE = 0.5
"""Shape of the gamma distribution of replicas' rates where their events do not show it. Measured on
two quickstarts: 0.5 and 1.1."""
EVENNESS_CONFIDENCE = 0.95
"""Confidence with which events must show that replicas are more even than assumed."""
FEWEST_GAPS = 20
"""With fewer gaps between activity the quiet time is not measured."""
WINDOW_OF_SOKAL = 5.0
"""Autocorrelations are summed up to this many autocorrelation times."""
CONSTANT = 1e-7
"""A quantity whose relative changes are smaller, the rounding of float32, does not change."""
PER_NS = 1000.0


@dataclass(frozen=True, kw_only=True)
class Window:
    """Late window of one replica.

    Attributes:
        events: events of it, that one included which was active when it began.
        active_at_begin: whether one was.
        calm_ps: time in which no event lasted, so that one could begin, ps.
        window_ps: simulated time in it, ps.
        gain_ps: Λ gained in it, mean over atoms, ps.
    """

    events: int
    active_at_begin: bool
    calm_ps: float
    window_ps: float
    gain_ps: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the windows of one structure at one temperature show; None: they show nothing.

    Attributes:
        events_per_ns: events per ns and molecule.
        events_bound_per_ns: its one-sided upper bound.
        events_low_per_ns: its one-sided lower bound.
        unreliable: fraction of atomic predictions that are unreliable.
        unreliable_bound: its one-sided upper bound.
        unreliable_low: its one-sided lower bound.
        dispersion: variance over mean of the events per replica, at least 1.
        shape: of the gamma distribution of the replicas' rates that the bounds allow for.
    """

    events_per_ns: float | None
    events_bound_per_ns: float | None
    events_low_per_ns: float | None
    unreliable: float | None
    unreliable_bound: float | None
    unreliable_low: float | None
    dispersion: float
    shape: float


def quiet_time_ps(gaps_ps: Sequence[float] | np.ndarray, least_ps: float) -> float:
    """Quiet time that separates independent events, from gaps between activity.

    Independent events have exponential gaps; bursts add short ones. The intervals estimator gives
    the fraction θ of gaps that lie between bursts, and the longest of the others is the quiet time.
    C. A. T. Ferro, J. Segers, J. R. Stat. Soc. B 65, 545 (2003).

    Args:
        gaps_ps: from the end of each activity to the beginning of the next of the same replica, of
            all replicas, shape (G,), ps.
        least_ps: the quiet time is at least this, and is this with under `FEWEST_GAPS` gaps, ps.
    """
    gaps = np.sort(np.asarray(gaps_ps, dtype=float))[::-1]
    if len(gaps) < FEWEST_GAPS:
        return least_ps
    between = min(1.0, 2 * gaps.sum() ** 2 / (len(gaps) * (gaps**2).sum()))
    bursts = int(between * len(gaps))
    return least_ps if bursts >= len(gaps) else max(least_ps, float(gaps[bursts]))


def gaps_ps(activity_ps: Sequence[tuple[float, float]]) -> list[float]:
    """Times without activity between the first and the last activity of a replica, ps."""
    ordered = sorted(activity_ps)
    ends = np.maximum.accumulate([end for _, end in ordered]) if ordered else np.empty(0)
    between = [
        begin - end for end, (begin, _) in zip(ends[:-1], ordered[1:], strict=True) if begin > end
    ]
    return [float(gap) for gap in between]


def late_window(
    activity_ps: Sequence[tuple[float, float]],
    *,
    begin_ps: float,
    end_ps: float,
    quiet_ps: float,
    gain_ps: float = 0.0,
) -> Window:
    """Count the events of one replica.

    Args:
        activity_ps: begin and end of each activity of the whole replica, ps.
        begin_ps: begin of the window, ps.
        end_ps: its end, ps.
        quiet_ps: what begins sooner after an activity belongs to the same event, ps.
        gain_ps: Λ gained in the window, ps.
    """
    events, active_at_begin, occupied = 0, False, 0.0
    until = -np.inf  # end of the event so far, with the quiet time after it
    for begin, end in sorted(activity_ps):
        if begin >= end_ps:
            break
        if end + quiet_ps <= begin_ps:
            continue
        if begin > until:
            events += 1
            active_at_begin = active_at_begin or begin < begin_ps
        occupied += max(0.0, min(end + quiet_ps, end_ps) - max(begin, until, begin_ps))
        until = max(until, end + quiet_ps)
    length = max(0.0, end_ps - begin_ps)
    return Window(
        events=events,
        active_at_begin=active_at_begin,
        calm_ps=max(0.0, length - occupied),
        window_ps=length,
        gain_ps=gain_ps,
    )


def evenness(windows: Sequence[Window]) -> tuple[float, float]:
    """How events are spread over replicas: dispersion, and shape of the rates to allow for.

    The shape is `ASSUMED_SHAPE`; less where the events are spread more unevenly (moments of the
    negative binomial distribution); more where the χ² test of equal rates shows it with confidence.
    """
    counts = np.array([window.events for window in windows], dtype=float)
    times = np.array([window.window_ps for window in windows])
    counts, times = counts[times > 0], times[times > 0]
    if len(counts) < 2 or not counts.sum():
        return 1.0, ASSUMED_SHAPE
    from scipy import special

    expected = counts.sum() * times / times.sum()
    chi2, freedom = float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1
    mean, dispersion = float(expected.mean()), max(1.0, chi2 / freedom)
    uneven = mean / (dispersion - 1) if dispersion > 1 else np.inf
    quantile = 2 * float(special.gammaincinv(freedom / 2, 1 - EVENNESS_CONFIDENCE))
    most = chi2 / quantile  # of χ² with that freedom
    even = mean / (most - 1) if most > 1 else np.inf
    if even > ASSUMED_SHAPE:
        return dispersion, min(float(even), 1e6)
    return dispersion, min(ASSUMED_SHAPE, float(uneven))


def greatest_mean(events: int, *, replicas: float, shape: float, confidence: float) -> float:
    """Exact one-sided upper bound of the expected number of events of all replicas together.

    The replicas' rates are gamma distributed, so that their events together follow a negative
    binomial distribution with `replicas · shape` as its size. For a great size it is F. Garwood's
    bound of the Poisson distribution, Biometrika 28, 437 (1936).

    Args:
        events: number of events.
        replicas: number of replicas; less than that if they are of unequal length.
        shape: of the distribution of the replicas' rates; their variance over their squared mean
            is 1/shape.
        confidence: of the bound.
    """
    from scipy import special

    size = replicas * shape
    # A greater mean gives so few events with a probability under 1 - confidence:
    # P(N ≤ n) = I_p(size, n + 1) with p = size / (size + mean).
    p = float(special.betaincinv(size, events + 1, 1 - confidence))
    return size * (1 / p - 1) if p > 0 else np.inf


def least_mean(events: int, *, replicas: float, shape: float, confidence: float) -> float:
    """Exact one-sided lower bound of the expected number of events, see `greatest_mean`."""
    if not events:
        return 0.0
    from scipy import special

    size = replicas * shape
    p = float(special.betaincinv(size, events, confidence))
    return size * (1 / p - 1)


def least_bound_per_ns(
    replicas: int, *, window_ps: float, molecules: int, confidence: float
) -> float:
    """Bound of the rate without any event: the best that windows of this length can show.

    Args:
        replicas: number of replicas of one structure at one temperature, at least 1.
        window_ps: late window of each, ps, over 0.
        molecules: molecules of the structure.
        confidence: of the bound.

    Returns:
        Events per ns and molecule.
    """
    window = Window(events=0, active_at_begin=False, calm_ps=window_ps, window_ps=window_ps)
    shown = bounds(
        [window] * replicas, molecules=molecules, atoms=1, quiet_ps=0.0, confidence=confidence
    )
    return np.inf if shown.events_bound_per_ns is None else shown.events_bound_per_ns


def bounds(
    windows: Sequence[Window], *, molecules: int, atoms: int, quiet_ps: float, confidence: float
) -> Bounds:
    """Rates of events and unreliable fraction of one structure at one temperature, with bounds.

    The bound of the unreliable fraction takes what each replica gained as a Poisson number of
    equal portions, as large as replicas with a gain show them (M. P. Fay, E. J. Feuer, Stat. Med.
    16, 791, 1997). It is at least what the bound on events allows if each is as large as those seen
    on average. Without any event nothing is known of their size: each is then taken to make one
    atom unreliable for the quiet time.

    Args:
        windows: of the replicas.
        molecules: molecules of the structure.
        atoms: atoms of the structure.
        quiet_ps: quiet time, ps.
        confidence: of each bound, one-sided.
    """
    from scipy import special

    dispersion, shape = evenness(windows)
    calm = np.array([window.calm_ps for window in windows])
    gains = np.array([window.gain_ps for window in windows])
    events = sum(window.events for window in windows)
    exposed, total = float(calm.sum()) * molecules, sum(window.window_ps for window in windows)
    rate = high = low = None
    if exposed > 0:
        of_replicas = {
            "replicas": float(calm.sum() ** 2 / (calm**2).sum()),
            "shape": shape,
            "confidence": confidence,
        }
        rate = events / exposed * PER_NS
        high = greatest_mean(events, **of_replicas) / exposed * PER_NS
        low = least_mean(events, **of_replicas) / exposed * PER_NS
    unreliable = unreliable_high = unreliable_low = None
    if total > 0:
        unreliable = float(gains.sum() / total)
        unreliable_high = unreliable_low = 0.0
        if gains.sum() > 0:
            portion = float((gains**2).sum() / gains.sum())
            portions = float(gains.sum() / portion)
            scale = portion / total
            unreliable_high = scale * float(special.gammaincinv(portions + 1, confidence))
            unreliable_low = scale * float(special.gammaincinv(portions, 1 - confidence))
        size_ps = float(gains.sum()) / events if events else quiet_ps / atoms
        unseen = high / PER_NS * molecules * size_ps if high is not None else 1.0
        unreliable_high = min(1.0, max(unreliable_high, unseen))
    return Bounds(
        events_per_ns=rate,
        events_bound_per_ns=_finite(high),
        events_low_per_ns=low,
        unreliable=unreliable,
        unreliable_bound=unreliable_high,
        unreliable_low=unreliable_low,
        dispersion=dispersion,
        shape=shape,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def decorrelation_ps(series: Iterable[np.ndarray], interval_ps: float) -> float | None:
    """Time after which a quantity of a replica is a new value: 2τ, τ its autocorrelation time, ps.

    τ = ½ + Σ ρ(t), summed up to the first t ≥ 5τ (A. Sokal, in Functional Integration, NATO ASI B
    361, 131, 1997). The autocorrelation is pooled over replicas about the mean of all: replicas
    that stay apart are correlated.

    Args:
        series: values of each replica at equal intervals, shapes (P,).
        interval_ps: time between two values, ps.

    Returns:
        None where it cannot be measured: the values are constant, too few, or correlated for
        longer than they last.
    """
    values = [np.asarray(part, dtype=float) for part in series]
    values = [part[np.isfinite(part)] for part in values]
    values = [part for part in values if len(part) > 1]
    if not values:
        return None
    mean = np.concatenate(values).mean()
    longest = max(len(part) for part in values)
    products, pairs = np.zeros(longest), np.zeros(longest)
    for part in values:
        n = len(part)
        spectrum = np.fft.rfft(part - mean, 2 * n)
        products[:n] += np.fft.irfft(spectrum * spectrum.conj(), 2 * n)[:n]
        pairs[:n] += np.arange(n, 0, -1)
    if not products[0] > (CONSTANT * mean) ** 2 * pairs[0]:
        return None
    correlation = products / pairs / (products[0] / pairs[0])
    times = np.maximum(0.5, 0.5 + np.concatenate([[0.0], correlation[1:].cumsum()]))
    enough = np.flatnonzero(np.arange(longest) >= WINDOW_OF_SOKAL * times)
    return 2 * float(times[enough[0]]) * interval_ps if len(enough) else None
