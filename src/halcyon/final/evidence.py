"""What long runs with a model show, in numbers that anyone can compute again from their traces.

Failures per simulated time with the exact Poisson bound (F. Garwood, Biometrika 28, 437, 1936),
excursions out of the label domain in the late window, the plateau of Λ, and, without a thermostat,
the drift of the total energy; for all replicas and by temperature.

    found = examine(traces, replicas, criteria, time_ps=1000.0)

Not for: running (see `certify`), or what follows from the numbers (see `certificate`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from ase.units import kB
from pydantic import Field
from scipy import stats

from halcyon.config import SaturationSettings
from halcyon.verdict import runs, saturation
from halcyon.verdict.estimates import Interval
from halcyon.verdict.forms import FailureRate, Form

RESAMPLES = 2000
SEED = 0
"""Of the bootstrap: the numbers are the same whenever they are computed again."""
TIME_TOLERANCE = 0.25
"""How far a replica's last point may be from its end, in time steps."""


class Criteria(Form):
    """What was asked of the model."""

    kind: str = Field(description="Kind of system: molecule, liquid or reactive.")
    confidence: float = Field(description="Confidence of bounds (one-sided) and intervals.")
    max_rate_per_atom_ps: float = Field(description="λ*: excursions per atom and ps must be rarer.")
    window: float = Field(description="Late window: this last part of each replica's time.")
    bond_stretch_A: float = Field(description="A bond further than this from its mean is broken.")
    min_distance_A: float = Field(description="Atoms closer than this overlap.")
    energy_drift_eV_per_atom: float = Field(
        description="Without a thermostat, a replica whose total energy goes further has failed."
    )
    max_drift_meV_per_atom_ps: float = Field(
        description="Without a thermostat no replica may drift faster."
    )


class ReplicaEnd(Form):
    """How one replica ended."""

    replica: int = Field(description="Its number, as in the traces.")
    structure: str = Field(description="Start structure.")
    start_key: str = Field(description="Key of the labelled frame it started from.")
    temperature_K: float = Field(description="Of the thermostat, or of the first momenta.")
    atoms: int = Field(description="Number of atoms.")
    time_ps: float = Field(description="Simulated time, until its failure or its end.")
    failure: str | None = Field(description="Why it failed; null: it did not.")


class Excursions(Form):
    """Excursions out of the label domain in the late window, of replicas that did not fail."""

    finding: str = Field(description="saturated, not saturated, or not enough data.")
    reason: str = Field(description="In words.")
    excursions: int = Field(description="That began in the window, summed over atoms.")
    atom_time_ps: float = Field(description="Atoms times simulated time.")
    rate_per_atom_ps: float | None = Field(description="Their quotient.")
    rate_lower_bound_per_atom_ps: float | None = Field(description="Exact one-sided lower bound.")
    rate_bound_per_atom_ps: float | None = Field(description="Exact one-sided upper bound.")
    homogeneity_p: float | None = Field(
        description="p-value of: all replicas have one rate. Null: too few events to ask."
    )


class Plateau(Form):
    """Λ of the label domain at the end of the replicas that did not fail, ps."""

    replicas: int = Field(description="Replicas that it is of.")
    cli_ps: Interval | None = Field(description="Λ at the end: mean with bootstrap interval.")
    late_gain_ps: Interval | None = Field(
        description="Gain of Λ in the late window: mean with bootstrap interval."
    )
    worst_atom_ps: float | None = Field(description="Greatest atomic Λ of all.")


class Drift(Form):
    """Drift of the total energy without a thermostat: least-squares slopes, meV/atom/ps."""

    replicas: int = Field(description="Replicas with enough points for a slope.")
    median: Interval | None = Field(description="Median of the absolute slopes.")
    worst: float | None = Field(description="The greatest of them.")


class Findings(Form):
    """What runs show: of all replicas, or of those of one temperature."""

    temperature_K: float | None = Field(description="Null: of all together.")
    replicas: int = Field(description="Number of replicas.")
    failures: FailureRate
    excursions: Excursions
    plateau: Plateau
    drift: Drift | None = Field(description="Only without a thermostat.")


def examine(
    traces: pd.DataFrame,
    replicas: Sequence[ReplicaEnd],
    criteria: Criteria,
    *,
    time_ps: float,
    conserved: bool,
) -> list[Findings]:
    """All numbers of some runs.

    Args:
        traces: as `explore` makes them.
        replicas: how each ended.
        criteria: limits and confidence.
        time_ps: asked of each replica, ps.
        conserved: whether the total energy is conserved: without a thermostat.

    Returns:
        First of all replicas, then by temperature, ascending.
    """
    temperatures = sorted({entry.temperature_K for entry in replicas})
    found = []
    for kelvin in (None, *temperatures):
        mine = [e for e in replicas if kelvin is None or e.temperature_K == kelvin]
        found.append(
            Findings(
                temperature_K=kelvin,
                replicas=len(mine),
                failures=runs.failures(mine, confidence=criteria.confidence),
                excursions=_excursions(traces, mine, criteria, time_ps),
                plateau=_plateau(traces, mine, criteria, time_ps),
                drift=_drift(traces, mine, criteria) if conserved else None,
            )
        )
    return found


def _excursions(
    traces: pd.DataFrame, replicas: Sequence[ReplicaEnd], criteria: Criteria, time_ps: float
) -> Excursions:
    settings = SaturationSettings(
        max_rate_per_atom_ps=criteria.max_rate_per_atom_ps,
        confidence=criteria.confidence,
        window=criteria.window,
    )
    windows = saturation.exposures(traces, replicas, time_ps=time_ps, window=criteria.window)
    assessment = saturation.assess(windows, settings)
    events, exposed = assessment.excursions, assessment.atom_time_ps
    lower = None
    if exposed > 0:
        lower = float(stats.gamma.ppf(1 - criteria.confidence, events) / exposed) if events else 0.0
    return Excursions(
        rate_lower_bound_per_atom_ps=lower,
        **assessment.model_dump(mode="json", include=set(Excursions.model_fields)),
    )


def _plateau(
    traces: pd.DataFrame, replicas: Sequence[ReplicaEnd], criteria: Criteria, time_ps: float
) -> Plateau:
    ends, gains, worst = [], [], []
    for entry in replicas:
        mine = traces[traces["replica"] == entry.replica]
        if entry.failure is not None or mine.empty:
            continue
        early = mine[mine["time"] <= time_ps * (1 - criteria.window)]["cli_label"]
        ends.append(float(mine["cli_label"].iloc[-1]))
        gains.append(ends[-1] - (float(early.iloc[-1]) if len(early) else 0.0))
        worst.append(float(mine["cli_label_max"].iloc[-1]))
    return Plateau(
        replicas=len(ends),
        cli_ps=_interval(ends, criteria.confidence, np.mean),
        late_gain_ps=_interval(gains, criteria.confidence, np.mean),
        worst_atom_ps=max(worst, default=None),
    )


def _drift(traces: pd.DataFrame, replicas: Sequence[ReplicaEnd], criteria: Criteria) -> Drift:
    slopes = []
    for entry in replicas:
        mine = traces[traces["replica"] == entry.replica]
        if entry.failure is None and len(mine) > 2:
            slopes.append(abs(drift(mine, entry.atoms)))
    return Drift(
        replicas=len(slopes),
        median=_interval(slopes, criteria.confidence, np.median),
        worst=max(slopes, default=None),
    )


def drift(traces: pd.DataFrame, atoms: int) -> float:
    """Slope of the total energy of one replica, meV/atom/ps.

    Args:
        traces: of that replica. The kinetic energy is 3/2 N k_B T, as T was made from it.
        atoms: N.
    """
    kinetic = 1.5 * atoms * kB * traces["temperature"]
    total = (traces["potential_energy"] + kinetic).to_numpy()
    return (
        1e3
        / atoms
        * float(np.polynomial.Polynomial.fit(traces["time"], total, 1).convert().coef[1])
    )


def _interval(values: Sequence[float], confidence: float, centre: Any) -> Interval | None:
    """Mean or median with a percentile bootstrap interval; None of nothing."""
    if not values:
        return None
    known = np.array(values)
    drawn = np.random.default_rng(SEED).integers(len(known), size=(RESAMPLES, len(known)))
    low, high = np.quantile(
        centre(known[drawn], axis=1), [(1 - confidence) / 2, (1 + confidence) / 2]
    )
    return Interval(value=float(centre(known)), low=float(low), high=float(high))


def contradictions(
    traces: pd.DataFrame,
    replicas: Sequence[ReplicaEnd],
    *,
    time_ps: float,
    timestep_fs: float,
) -> list[str]:
    """Where a list of replicas does not agree with the traces of the same runs.

    A replica that did not fail has its last point at the asked time, one that did where it failed.

    Returns:
        A line each; none if they agree.
    """
    close = TIME_TOLERANCE * timestep_fs / 1000
    listed, traced = {e.replica for e in replicas}, set(traces["replica"])
    found = []
    if listed != traced:
        found.append(f"replicas {sorted(listed)} are listed, {sorted(traced)} are in the traces")
    for entry in replicas:
        mine = traces[traces["replica"] == entry.replica]
        if mine.empty:
            continue
        last = float(mine["time"].iloc[-1])
        whole = abs(last - time_ps) < close
        if abs(last - entry.time_ps) > close:
            found.append(f"replica {entry.replica}: ends at {last:g} ps, not {entry.time_ps:g} ps")
        elif entry.failure is None and not whole:
            found.append(
                f"replica {entry.replica}: stopped at {last:g} of {time_ps:g} ps, not failed"
            )
        if set(mine["target_temperature"]) != {entry.temperature_K}:
            found.append(f"replica {entry.replica}: not at {entry.temperature_K:g} K")
        if set(mine["structure"]) != {entry.structure}:
            found.append(f"replica {entry.replica}: not of {entry.structure}")
    return found
