"""From traces to a verdict: has the index stopped growing, surely enough?

    from pathlib import Path
    from halcyon.config import Settings
    from halcyon.verdict.runs import read_run
    from halcyon.verdict.saturation import assess_run, decide

    run, settings = read_run(Path("results/quickstart/ethanol/gen001")), Settings()
    assessment = assess_run(run.traces, run.replicas, settings)
    decision, reason = decide(assessment, generation=1, labels=95, limits=settings.limits)

Counts of excursions in the late window of all replicas are held against the exact Poisson bound
(F. Garwood, Biometrika 28, 437, 1936). "Not enough data to tell" is an outcome of its own.

Not for: when replicas fail (see `survival`), or certifying a model (see `final.certificate`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from halcyon.config import LimitSettings, SaturationSettings, Settings
from halcyon.verdict.forms import Assessment, Decision, Ended, Explored, Finding, Verdict

# Snakemake asks this module whether a campaign goes on: it need not load tables for that.
if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """Late window of one replica.

    Attributes:
        excursions: excursions that began in it, summed over atoms.
        atom_time_ps: simulated time in it times number of atoms, ps.
        failed: whether the replica failed, at any time.
    """

    excursions: int
    atom_time_ps: float
    failed: bool


def exposures(
    traces: "pd.DataFrame", replicas: Sequence[Ended], *, time_ps: float, window: float
) -> list[Exposure]:
    """Late windows of all replicas, from exact cumulative counts.

    Args:
        traces: as `exploration.explore` makes them.
        replicas: how each ended, e.g. `forms.ReplicaEnd`.
        time_ps: simulated time that was asked of each replica, ps.
        window: fraction of it that is the late window.
    """
    windows = []
    begin = time_ps * (1 - window)
    for end in replicas:
        trace = traces[traces["replica"] == end.replica]
        early = trace[trace["time"] <= begin]
        # Where the window begins between two points, the earlier one counts: nothing is missed.
        counted = 0 if early.empty else int(early["excursions_label"].iloc[-1])
        since = 0.0 if early.empty else float(early["time"].iloc[-1])
        last = 0 if trace.empty else int(trace["excursions_label"].iloc[-1])
        until = 0.0 if trace.empty else float(trace["time"].iloc[-1])
        windows.append(
            Exposure(
                excursions=last - counted,
                atom_time_ps=max(0.0, until - since) * end.atoms,
                failed=end.failure is not None,
            )
        )
    return windows


def rate_bound(events: int, time_ps: float, confidence: float) -> float:
    """Exact one-sided upper bound of a Poisson rate, 1/ps (F. Garwood, Biometrika 28, 437, 1936).

    Zero events in W ps give 3.0/W at 95 %.

    Args:
        events: number of events.
        time_ps: time in which they were counted, ps, over 0.
        confidence: of the bound.
    """
    from scipy import stats

    return float(stats.gamma.ppf(confidence, events + 1) / time_ps)


def homogeneity(exposures: Sequence[Exposure]) -> float | None:
    """p-value of "all replicas have one rate": χ² test of counts against pooled expectations.

    None where the expected count is too small (under 1 per replica) for the test to mean anything.
    """
    import numpy as np
    from scipy import stats

    # A replica that began or failed outside the window says nothing.
    exposures = [exposure for exposure in exposures if exposure.atom_time_ps > 0]
    events = np.array([exposure.excursions for exposure in exposures])
    times = np.array([exposure.atom_time_ps for exposure in exposures])
    if len(events) < 2 or events.sum() < len(events):
        return None
    return float(stats.chisquare(events, events.sum() * times / times.sum()).pvalue)


def assess(exposures: Sequence[Exposure], settings: SaturationSettings) -> Assessment:
    """Has the index saturated?

    Args:
        exposures: late window of each replica.
        settings: the limit λ* of the rate, and the confidence of its bound.
    """
    # Excursions of a failed replica do not count: that it failed decides already.
    survived = [exposure for exposure in exposures if not exposure.failed]
    failed = len(exposures) - len(survived)
    events = sum(exposure.excursions for exposure in survived)
    time_ps = sum(exposure.atom_time_ps for exposure in survived)
    limit = settings.max_rate_per_atom_ps
    bound = rate_bound(events, time_ps, settings.confidence) if time_ps > 0 else None
    best_possible = rate_bound(0, time_ps, settings.confidence) if time_ps > 0 else None
    if failed:
        finding = Finding.NOT_SATURATED
        reason = f"{failed} of {len(exposures)} replicas failed"
    elif best_possible is None or best_possible >= limit:
        finding = Finding.NOT_ENOUGH_DATA
        reason = f"{time_ps:.3g} atom-ps in the late window cannot show a rate under {limit:g}/ps"
    elif bound is not None and bound < limit:
        finding = Finding.SATURATED
        reason = f"rate < {bound:.3g}/ps per atom ({settings.confidence:.0%}), under {limit:g}/ps"
    else:
        finding = Finding.NOT_SATURATED
        reason = (
            f"rate up to {bound:.3g}/ps per atom ({settings.confidence:.0%}), over {limit:g}/ps"
        )
    return Assessment(
        finding=finding,
        reason=reason,
        excursions=events,
        atom_time_ps=time_ps,
        rate_per_atom_ps=events / time_ps if time_ps > 0 else None,
        rate_bound_per_atom_ps=bound,
        rate_limit_per_atom_ps=limit,
        confidence=settings.confidence,
        replicas=len(exposures),
        failed=failed,
        homogeneity_p=homogeneity(survived),
    )


def assess_run(traces: "pd.DataFrame", replicas: Sequence[Ended], settings: Settings) -> Assessment:
    """`assess` for a whole exploration, as its settings say."""
    windows = exposures(
        traces,
        replicas,
        time_ps=settings.exploration.time_ps,
        window=settings.saturation.window,
    )
    return assess(windows, settings.saturation)


def decide(
    assessment: Assessment,
    *,
    generation: int,
    labels: int,
    limits: LimitSettings,
    core_hours: float = 0.0,
    not_computed: int = 0,
) -> tuple[Decision, str]:
    """What to do after a generation, and why.

    Args:
        assessment: from `assess`.
        generation: counted from 0.
        labels: label calculations spent so far, failed ones included.
        limits: budgets and generations.
        core_hours: core-hours that the whole campaign has spent so far.
        not_computed: frames that the budget of core-hours did not reach.
    """
    missing = f", {not_computed} frames not computed" if not_computed else ""
    if assessment.finding is Finding.SATURATED:
        return Decision.SATURATED, assessment.reason + missing
    finding = f"{assessment.finding}: {assessment.reason}"
    if not_computed or (limits.core_hours is not None and core_hours >= limits.core_hours):
        limit = "unlimited" if limits.core_hours is None else f"{limits.core_hours:.4g}"
        spent = f"{core_hours:.4g} of {limit} core-hours spent{missing}"
        return Decision.BUDGET_SPENT, f"{spent}; {finding}"
    if labels >= limits.label_budget:
        return Decision.BUDGET_SPENT, f"{labels} of {limits.label_budget} labels spent; {finding}"
    if generation + 1 >= limits.max_generations:
        return Decision.MAX_GENERATIONS, f"{generation + 1} generations done; {finding}"
    return Decision.CONTINUE, finding


def goes_on(verdict: Verdict, settings: Settings) -> bool:
    """Whether a written verdict leads to another generation under the settings that hold now.

    A campaign that ended at a limit goes on when that limit is raised. A campaign that has
    saturated goes on when longer dynamics, or dynamics at other temperatures, are asked for. The
    verdict stays as it is; only where core-hours ran out before all frames were computed, it is
    made again (see `campaign.budget.reopen`).
    """
    limits = settings.limits
    allowed = (
        verdict.generation + 1 < limits.max_generations
        and verdict.labels.spent < limits.label_budget
        and (limits.core_hours is None or verdict.core_hours.spent < limits.core_hours)
    )
    if verdict.decision is not Decision.SATURATED:
        return allowed
    return allowed and _asks_for_more(settings, verdict.explored)


def _asks_for_more(settings: Settings, explored: Explored | None) -> bool:
    """Whether exploration is now to be longer, or at other temperatures, than it was."""
    if explored is None:
        return False
    exploration = settings.exploration
    longer = exploration.time_ps > explored.time_ps * (1 + 1e-9)
    return longer or not {*exploration.temperatures_K} <= {*explored.temperatures_K}


def gets_certificate(verdict: Verdict, settings: Settings) -> bool:
    """Whether a campaign has ended with this verdict, and its model gets a certificate."""
    over = not goes_on(verdict, settings)
    return over and certificate_wanted(verdict.decision, settings.certificate.when)


def certificate_wanted(decision: str, when: str) -> bool:
    """Whether the model of a campaign that ends with this decision gets a certificate.

    Args:
        decision: a `Decision`.
        when: `certificate.when` of the settings.
    """
    return when == "always" or (when == "saturated" and decision == Decision.SATURATED)
