"""What long runs with a model show, in numbers that anyone can compute again from their traces.

    from halcyon.final.evidence import examine

    overall, *by_temperature = examine(traces, replicas, criteria, time_ps=1000.0, conserved=False)
    print(overall.failures.bound_per_ps)  # with confidence fewer failures per ps than this

The numbers are: failures per simulated time with the exact Poisson bound (F. Garwood, Biometrika
28, 437, 1936), events in the late window as for the campaign's verdict (`verdict.calm`), the
plateau of Λ, and, without a thermostat, the drift of the total energy.

Not for: the runs (`long_runs`), or what follows from the numbers (`certificate`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from ase.units import kB
from pydantic import Field

from halcyon.config import SaturationSettings
from halcyon.verdict import runs
from halcyon.verdict.calm import calm_part
from halcyon.verdict.estimates import Interval
from halcyon.verdict.forms import Calm, FailureRate, Form, Order
from halcyon.verdict.melting import order_of

RESAMPLES = 2000
SEED = 0
"""Seed of the bootstrap: numbers that are computed again are the same."""
TIME_TOLERANCE = 0.25
"""How far a replica's last point may be from its end, in time steps."""


class Criteria(Form):
    """What the model was tested against."""

    kind: str = Field(description="Kind of system: molecule, liquid, reactive, solid or slab.")
    confidence: float = Field(
        description="Confidence of bounds (one-sided) and intervals (two-sided)."
    )
    events_per_ns: float | None = Field(
        None,
        description="λ*: events per ns and molecule must be rarer; null in certificates of early "
        "releases, which counted excursions.",
    )
    unreliable_fraction: float | None = Field(
        None, description="Fewer of the atomic predictions must be unreliable."
    )
    quiet_time_ps: float | None = Field(None, description="Least quiet time between events.")
    decorrelation_times: float | None = Field(
        None, description="Least simulated time, in decorrelation times of the index."
    )
    max_rate_per_atom_ps: float | None = Field(
        None, description="Of early releases: excursions per atom and ps must be rarer."
    )
    window: float = Field(description="Late window: this last part of each replica's time.")
    bond_stretch_A: float = Field(description="A bond further than this from its mean is broken.")
    min_distance_A: float = Field(description="Atoms closer than this overlap.")
    site_distance_A: float | None = Field(
        None,
        description="An atom of a crystal further than this from its site is a failure; null: it "
        "may go anywhere.",
    )
    energy_drift_eV_per_atom: float = Field(
        description="Without a thermostat, a replica whose total energy goes further has failed."
    )
    max_drift_meV_per_atom_ps: float = Field(
        description="Without a thermostat no replica may drift faster."
    )

    def of_calm(self) -> SaturationSettings | None:
        """The criteria of calm dynamics; None in certificates of early releases."""
        if self.events_per_ns is None:
            return None
        values = self.model_dump(include=set(SaturationSettings.model_fields))
        # Not validated: a criterion that somebody changed is for `checks.verify` to find.
        return SaturationSettings.model_construct(**values)


class ReplicaEnd(Form):
    """How one replica ended."""

    replica: int = Field(description="Number of the replica, as in the traces.")
    structure: str = Field(description="Start structure.")
    start_key: str = Field(description="Key of the labelled frame that the replica started from.")
    temperature_K: float = Field(
        description="Temperature of the thermostat or, without one, of its equilibration."
    )
    atoms: int = Field(description="Number of atoms.")
    time_ps: float = Field(description="Simulated time until the replica failed or ended.")
    failure: str | None = Field(description="Why it failed; null: it did not.")
    molecules: int | None = Field(
        None,
        description="Molecules of its start frame; of a crystal, ten atoms count as one. Null in "
        "certificates of early releases.",
    )
    per: str = Field(
        "molecule",
        description="What rates are given for: molecule, or `molecule or ten atoms` of a crystal.",
    )
    activity_ps: list[tuple[float, float]] | None = Field(
        None,
        description="Begin and end of the times during which some atom was unreliable; null in "
        "certificates of early releases.",
    )
    lindemann: float | None = Field(
        None,
        description="Lindemann ratio of a crystal over the later half of its time; null: not "
        "measured.",
    )


class Excursions(Form):
    """What certificates of early releases say of the late window."""

    finding: str = Field(description="saturated, not saturated, or not enough data.")
    reason: str = Field(description="The finding in words.")
    excursions: int = Field(description="Excursions that began in the window, summed over atoms.")
    atom_time_ps: float = Field(description="Atoms times simulated time.")
    rate_per_atom_ps: float | None = Field(description="Excursions per atom and ps.")
    rate_lower_bound_per_atom_ps: float | None = Field(description="Exact one-sided lower bound.")
    rate_bound_per_atom_ps: float | None = Field(description="Exact one-sided upper bound.")
    homogeneity_p: float | None = Field(
        description="p-value of the hypothesis that all replicas have the same rate. Null: too few "
        "excursions to test it."
    )


class Plateau(Form):
    """Λ at the end of the replicas that did not fail, ps."""

    replicas: int = Field(description="Replicas that did not fail.")
    cli_ps: Interval | None = Field(description="Λ at the end: mean with bootstrap interval.")
    late_gain_ps: Interval | None = Field(
        description="Gain of Λ in the late window: mean with bootstrap interval."
    )
    worst_atom_ps: float | None = Field(description="Greatest Λ of any atom of any replica.")


class Drift(Form):
    """Drift of the total energy without a thermostat: least-squares slopes, meV/atom/ps."""

    replicas: int = Field(description="Replicas with enough points for a slope.")
    median: Interval | None = Field(description="Median of the absolute slopes.")
    worst: float | None = Field(description="Greatest absolute slope.")


class Findings(Form):
    """What runs show: all replicas together, or those at one temperature."""

    temperature_K: float | None = Field(description="Null: all temperatures together.")
    replicas: int = Field(description="Number of replicas.")
    failures: FailureRate
    calm: list[Calm] = Field(
        [],
        description="Events of each structure at each temperature; empty in certificates of early "
        "releases.",
    )
    excursions: Excursions | None = Field(
        None, description="Only in certificates of early releases."
    )
    order: list[Order] = Field(
        [], description="Lindemann ratios of each crystal at each temperature."
    )
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
    """Compute all numbers of the runs of one ensemble.

    Args:
        traces: see `traces.TRACE_COLUMNS`.
        replicas: how each replica ended.
        criteria: limits and confidence.
        time_ps: time that each replica should reach, ps.
        conserved: whether the total energy is conserved, as it is without a thermostat.

    Returns:
        Findings of all replicas together, then at each temperature, ascending.
    """
    temperatures = sorted({end.temperature_K for end in replicas})
    findings = []
    for kelvin in (None, *temperatures):
        chosen = [end for end in replicas if kelvin is None or end.temperature_K == kelvin]
        findings.append(
            Findings(
                temperature_K=kelvin,
                replicas=len(chosen),
                failures=runs.failures(chosen, confidence=criteria.confidence),
                calm=_calm(traces, chosen, criteria, time_ps),
                order=order_of(chosen),
                plateau=_plateau(traces, chosen, criteria, time_ps),
                drift=_drift(traces, chosen, criteria) if conserved else None,
            )
        )
    return findings


def _calm(
    traces: pd.DataFrame, replicas: Sequence[ReplicaEnd], criteria: Criteria, time_ps: float
) -> list[Calm]:
    """Events of each structure at each temperature, by the campaign's rule.

    The model is tested once, on runs that nothing was learned from: the whole error is for them.
    """
    settings = criteria.of_calm()
    if settings is None:
        return []
    places = dict.fromkeys((end.structure, end.temperature_K) for end in replicas)
    return [
        calm_part(
            traces,
            [end for end in replicas if (end.structure, end.temperature_K) == place],
            settings,
            time_ps=time_ps,
            confidence=criteria.confidence,
        )
        for place in places
    ]


def _plateau(
    traces: pd.DataFrame, replicas: Sequence[ReplicaEnd], criteria: Criteria, time_ps: float
) -> Plateau:
    ends, gains, worst = [], [], []
    index = f"cli_{runs.deciding(traces.columns)}"
    for end in replicas:
        trace = traces[traces["replica"] == end.replica]
        if end.failure is not None or trace.empty:
            continue
        early = trace[trace["time"] <= time_ps * (1 - criteria.window)][index]
        ends.append(float(trace[index].iloc[-1]))
        gains.append(ends[-1] - (float(early.iloc[-1]) if len(early) else 0.0))
        worst.append(float(trace[f"{index}_max"].iloc[-1]))
    return Plateau(
        replicas=len(ends),
        cli_ps=_interval(ends, criteria.confidence, np.mean),
        late_gain_ps=_interval(gains, criteria.confidence, np.mean),
        worst_atom_ps=max(worst, default=None),
    )


def _drift(traces: pd.DataFrame, replicas: Sequence[ReplicaEnd], criteria: Criteria) -> Drift:
    slopes = []
    for end in replicas:
        trace = traces[traces["replica"] == end.replica]
        if end.failure is None and len(trace) > 2:
            slopes.append(abs(drift(trace, end.atoms)))
    return Drift(
        replicas=len(slopes),
        median=_interval(slopes, criteria.confidence, np.median),
        worst=max(slopes, default=None),
    )


def drift(trace: pd.DataFrame, atoms: int) -> float:
    """Least-squares slope of the total energy of one replica, meV/atom/ps.

    Traces of schema 1 have no kinetic energy. It is 3/2 N k_B T there: their temperature was
    computed from it in this way.

    Args:
        trace: of the replica: `time` (ps), `potential_energy` and `kinetic_energy` (eV); the older
            ones `temperature` (K) for the latter.
        atoms: number of atoms N.
    """
    if "kinetic_energy" in trace:
        kinetic = trace["kinetic_energy"]
    else:
        kinetic = 1.5 * atoms * kB * trace["temperature"]
    total = (trace["potential_energy"] + kinetic).to_numpy()
    line = np.polynomial.Polynomial.fit(trace["time"], total, 1).convert()
    return 1e3 / atoms * float(line.coef[1])


def _interval(values: Sequence[float], confidence: float, centre: Any) -> Interval | None:
    """Mean or median with a percentile bootstrap interval; None without values."""
    if not values:
        return None
    sample = np.array(values)
    drawn = np.random.default_rng(SEED).integers(len(sample), size=(RESAMPLES, len(sample)))
    low, high = np.quantile(
        centre(sample[drawn], axis=1), [(1 - confidence) / 2, (1 + confidence) / 2]
    )
    return Interval(value=float(centre(sample)), low=float(low), high=float(high))


def contradictions(
    traces: pd.DataFrame,
    replicas: Sequence[ReplicaEnd],
    *,
    time_ps: float,
    timestep_fs: float,
) -> list[str]:
    """Where a list of replicas does not agree with the traces of the same runs.

    A replica that did not fail must have its last point at the end of the run, a replica that
    failed at its failure.

    Args:
        traces: see `traces.TRACE_COLUMNS`.
        replicas: how each replica ended, as the certificate says.
        time_ps: time that each replica should reach, ps.
        timestep_fs: time step, fs.

    Returns:
        A sentence for each contradiction.
    """
    tolerance = TIME_TOLERANCE * timestep_fs / 1000
    listed, traced = {end.replica for end in replicas}, set(traces["replica"])
    faults = []
    if listed != traced:
        faults.append(f"replicas {sorted(listed)} are listed, {sorted(traced)} are in the traces")
    for end in replicas:
        trace = traces[traces["replica"] == end.replica]
        if trace.empty:
            continue
        name, last = f"replica {end.replica}", float(trace["time"].iloc[-1])
        complete = abs(last - time_ps) < tolerance
        if abs(last - end.time_ps) > tolerance:
            faults.append(f"{name}: ends at {last:g} ps in the traces, not at {end.time_ps:g} ps")
        elif end.failure is None and not complete:
            faults.append(
                f"{name}: listed as not failed, but it ends at {last:g} of {time_ps:g} ps"
            )
        if set(trace["target_temperature"]) != {end.temperature_K}:
            faults.append(f"{name}: not at {end.temperature_K:g} K in the traces")
        if set(trace["structure"]) != {end.structure}:
            faults.append(f"{name}: not of structure {end.structure} in the traces")
    return faults
