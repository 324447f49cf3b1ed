"""Is an exploration calm? Each structure at each temperature is judged by its late window.

    from pathlib import Path
    from halcyon.config import Settings
    from halcyon.verdict.calm import calm_parts
    from halcyon.verdict.runs import read_run

    run = read_run(Path("results/quickstart/ethanol/gen001"))
    for part in calm_parts(run.traces, run.replicas, Settings(), confidence=0.99):
        print(part.structure, part.temperature_K, part.finding, part.reason)

Not for: what an event is, and bounds of their rate (`events`), from the parts to a decision
(`saturation`), or whether forces are right (`audit`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from halcyon.config import SaturationSettings, Settings
from halcyon.verdict.events import (
    CONSTANT,
    bounds,
    decorrelation_ps,
    gaps_ps,
    late_window,
    least_bound_per_ns,
    quiet_time_ps,
)
from halcyon.verdict.forms import Calm, Ended, Finding
from halcyon.wording import count, per_cent, significant

# Snakemake asks `saturation`, which imports this module: it need not load tables for that.
if TYPE_CHECKING:
    import pandas as pd

LONGEST_QUIET = 0.25
"""The quiet time is at most this fraction of the late window."""
TIMES_OVER = 10.0
"""Lower bounds so many times over their limits show that dynamics are not calm, however short."""
ALL_THE_TIME = "some atom was unreliable all the time in each replica"
LEAST_TIMES_OF_A_REPLICA = 5.0
"""Each replica must be at least so many integrated autocorrelation times long."""


def calm_parts(
    traces: "pd.DataFrame",
    replicas: Sequence[Ended],
    settings: Settings,
    *,
    confidence: float,
) -> list[Calm]:
    """Judge each structure at each temperature of an exploration.

    Args:
        traces: as `exploration.explore` makes them.
        replicas: how each ended.
        settings: time asked of each replica, window, and limits.
        confidence: of the bounds.
    """
    places = dict.fromkeys((end.structure, end.temperature_K) for end in replicas)
    return [
        calm_part(
            traces,
            [end for end in replicas if (end.structure, end.temperature_K) == place],
            settings.saturation,
            time_ps=settings.exploration.time_ps,
            confidence=confidence,
        )
        for place in places
    ]


def calm_part(
    traces: "pd.DataFrame",
    replicas: Sequence[Ended],
    settings: SaturationSettings,
    *,
    time_ps: float,
    confidence: float,
) -> Calm:
    """Judge one structure at one temperature.

    Args:
        traces: of these replicas, and perhaps of others.
        replicas: at least one; all of one structure at one temperature.
        settings: window and limits.
        time_ps: time asked of each replica, ps.
        confidence: of the bounds.
    """
    begin_ps = time_ps * (1 - settings.window)
    molecules = min(end.molecules or 1 for end in replicas)
    survived = [end for end in replicas if end.failure is None]
    quiet = quiet_time_ps(
        [gap for end in replicas for gap in gaps_ps(end.activity_ps or [])], settings.quiet_time_ps
    )
    longest = max(settings.quiet_time_ps, LONGEST_QUIET * time_ps * settings.window)
    quiet = min(quiet, longest)
    of_replica = dict(list(traces.groupby("replica")))
    windows = [
        late_window(
            end.activity_ps or [],
            begin_ps=begin_ps,
            end_ps=end.time_ps,
            quiet_ps=quiet,
            gain_ps=_gain_ps(of_replica.get(end.replica), begin_ps),
        )
        for end in survived
    ]
    shown = bounds(
        windows,
        molecules=molecules,
        atoms=min(end.atoms for end in replicas),
        quiet_ps=quiet,
        confidence=confidence,
    )
    decorrelation = _decorrelation(
        [of_replica[end.replica] for end in survived if end.replica in of_replica], begin_ps
    )
    simulated = sum(end.time_ps for end in replicas)
    measured = all(end.activity_ps is not None for end in replicas)
    calm = Calm(
        structure=replicas[0].structure,
        temperature_K=replicas[0].temperature_K,
        finding=Finding.NOT_ENOUGH_DATA,
        reason="",
        replicas=len(replicas),
        failed=len(replicas) - len(survived),
        molecules=molecules,
        per=replicas[0].per,
        time_ps=simulated,
        window_ps=sum(window.window_ps for window in windows),
        calm_ps=sum(window.calm_ps for window in windows),
        quiet_time_ps=quiet,
        events=sum(window.events for window in windows),
        active_at_begin=sum(window.active_at_begin for window in windows),
        dispersion=shown.dispersion,
        shape=shown.shape,
        events_per_ns=shown.events_per_ns if measured else None,
        events_bound_per_ns=shown.events_bound_per_ns if measured else None,
        events_low_per_ns=shown.events_low_per_ns if measured else None,
        unreliable_fraction=shown.unreliable if measured else None,
        unreliable_bound=shown.unreliable_bound if measured else None,
        unreliable_low=shown.unreliable_low if measured else None,
        decorrelation_ps=decorrelation,
        decorrelation_times=None if decorrelation is None else simulated / decorrelation,
        shortest_ps=min((end.time_ps for end in survived), default=None),
    )
    old = None
    if not measured:
        old = "exploration.json of an earlier release does not say when atoms were unreliable"
    elif not {"cli_error", "expected_error"} <= {*traces.columns}:
        old = (
            "the traces have no expected errors: an earlier release made them, or none were fitted"
        )
    finding, reason = judged(calm, settings, confidence=confidence, old=old)
    return calm.model_copy(update={"finding": finding, "reason": reason})


def _gain_ps(trace: "pd.DataFrame | None", begin_ps: float) -> float:
    """Λ that a replica gained in the late window, mean over atoms, ps."""
    if trace is None or trace.empty or "cli_error" not in trace:
        return 0.0
    # Where the window begins between two points, the earlier one counts: nothing is missed.
    index = trace["cli_error"].to_numpy()
    early = int(np.searchsorted(trace["time"].to_numpy(), begin_ps, side="right"))
    return float(index[-1]) - (float(index[early - 1]) if early else 0.0)


def _decorrelation(traces: Sequence["pd.DataFrame"], begin_ps: float) -> float | None:
    """Decorrelation time of the expected error in the late window, ps.

    Where it is the same all the time, as where signals do not tell good atoms apart, that of the
    potential energy.
    """
    traces = [trace for trace in traces if len(trace) > 1]
    if not traces:
        return None
    times = [trace["time"].to_numpy() for trace in traces]
    interval = float(np.median(np.concatenate([np.diff(of_replica) for of_replica in times])))
    for column in ("expected_error", "potential_energy"):
        late = [
            trace[column].to_numpy()[of_replica > begin_ps]
            for trace, of_replica in zip(traces, times, strict=True)
            if column in trace
        ]
        values = np.concatenate([*late, np.empty(0)])
        values = values[np.isfinite(values)]
        if len(values) and np.ptp(values) > CONSTANT * np.abs(values).max():
            return decorrelation_ps(late, interval)
    return None


def judged(
    calm: Calm, settings: SaturationSettings, *, confidence: float, old: str | None = None
) -> tuple[Finding, str]:
    """What the numbers of one structure at one temperature say, and why.

    Args:
        calm: the numbers; finding and reason of it are not looked at.
        settings: limits.
        confidence: of the bounds.
        old: why there are no numbers, in files of an earlier release.
    """
    if calm.failed:
        return Finding.NOT_SATURATED, _failed(calm)
    level = per_cent(round(confidence, 3))
    if old is None and (decisive := hopeless(calm, settings)):
        return Finding.NOT_SATURATED, decisive
    if missing := old or _cannot_show(calm, settings, confidence, level):
        return Finding.NOT_ENOUGH_DATA, missing
    if against := _against(calm, settings, level):
        return Finding.NOT_SATURATED, against
    if short := _too_short(calm, settings):
        return Finding.NOT_ENOUGH_DATA, short
    return Finding.SATURATED, (
        f"fewer than {significant(calm.events_bound_per_ns or 0.0)} events per ns and {calm.per}, "
        f"under {calm.unreliable_bound or 0.0:.2%} of the atomic predictions unreliable, {level}"
    )


def hopeless(calm: Calm, limits: SaturationSettings) -> str:
    """What shows that these dynamics are not calm, however short they were; empty: nothing does.

    Args:
        calm: the numbers; finding and reason of it are not looked at.
        limits: of events and of unreliable predictions.
    """
    if calm.failed:
        return _failed(calm)
    if calm.window_ps > 0 and not calm.calm_ps > 0:
        return ALL_THE_TIME
    if (calm.events_low_per_ns or 0.0) > TIMES_OVER * limits.events_per_ns:
        low = significant(calm.events_low_per_ns or 0.0)
        return f"over {low} events per ns and {calm.per}, limit {limits.events_per_ns:g}"
    if (calm.unreliable_low or 0.0) > TIMES_OVER * limits.unreliable_fraction:
        return (
            f"over {calm.unreliable_low:.0%} of the atomic predictions unreliable, limit "
            f"{limits.unreliable_fraction:.3g}"
        )
    return ""


def _failed(calm: Calm) -> str:
    return f"{calm.failed} of {count(calm.replicas, 'replica')} failed"


def _cannot_show(
    calm: Calm, settings: SaturationSettings, confidence: float, level: str
) -> str | None:
    """Why not even a window without events would show what is asked; None if it would."""
    if not calm.window_ps > 0:
        return "no simulated time in the late window"
    best = least_bound_per_ns(
        calm.replicas,
        window_ps=calm.window_ps / calm.replicas,
        molecules=calm.molecules,
        confidence=confidence,
    )
    if best < settings.events_per_ns:
        return None
    return (
        f"{significant(calm.window_ps)} ps of {count(calm.replicas, 'replica')} in the late window "
        f"cannot show fewer than {significant(best)} events per ns and {calm.per} ({level}); "
        f"asked: {settings.events_per_ns:g}"
    )


def _against(calm: Calm, settings: SaturationSettings, level: str) -> str:
    """What speaks against calm dynamics; empty: nothing."""
    if not calm.calm_ps > 0:
        return ALL_THE_TIME
    against, bound, share = [], calm.events_bound_per_ns, calm.unreliable_bound
    if bound is None or bound >= settings.events_per_ns:
        many = "any number of" if bound is None else f"up to {significant(bound)}"
        against.append(
            f"{many} events per ns and {calm.per} ({level}), over {settings.events_per_ns:g}"
        )
    if share is None or share >= settings.unreliable_fraction:
        most = "all" if share is None else f"up to {share:.2%}"
        against.append(
            f"{most} of the atomic predictions may be unreliable ({level}), over "
            f"{settings.unreliable_fraction:.3g}"
        )
    return "; ".join(against)


def _too_short(calm: Calm, settings: SaturationSettings) -> str | None:
    """Why too little was explored; None if enough was."""
    time = f"{significant(calm.time_ps)} ps in all"
    if calm.decorrelation_ps is None or calm.decorrelation_times is None:
        return (
            "the expected error did not decorrelate within the late window, or nothing changed in "
            f"it: {time} may be too short"
        )
    if calm.decorrelation_times < settings.decorrelation_times:
        return (
            f"{time} are {calm.decorrelation_times:.3g} decorrelation times "
            f"({significant(calm.decorrelation_ps)} ps) of the expected error; asked: "
            f"{settings.decorrelation_times:g}"
        )
    shortest, least = calm.shortest_ps or 0.0, LEAST_TIMES_OF_A_REPLICA / 2 * calm.decorrelation_ps
    if shortest < least:
        return (
            f"a replica of {significant(shortest)} ps is shorter than five autocorrelation times "
            f"of the expected error ({significant(least)} ps)"
        )
    return None
