"""Do replicas survive? Sentences and tables about it, for the page.

    from halcyon.report import collect
    from halcyon.report.survival_words import critical_text

    critical = collect(campaign, "ethanol", verdicts).last.critical_cli
    critical_text(critical.label, "label")  # The critical Λ of the label domain, which half …

Not for: the numbers (`verdict.runs`, `verdict.survival`), or the curves (`page.lifetimes`).
"""

from collections.abc import Mapping, Sequence

from halcyon.verdict import survival
from halcyon.verdict.estimates import FEWEST_FAILURES, Estimate, Outcome
from halcyon.verdict.forms import CriticalCli, CriticalClis, FailureRate, ReplicaEnd
from halcyon.verdict.runs import TIERS, Run, overlap
from halcyon.verdict.survival import Ending
from halcyon.wording import per_cent, significant

NAMES = {"error": "expected error", "label": "label domain", "guard": "guard domain"}
"""What Λ is counted by, in words, by the ending of its trace columns."""


def estimate_text(estimate: Estimate, *, scale: float = 1.0) -> str:
    """An estimate with its interval, or why there is none.

    Args:
        estimate: the estimate.
        scale: factor of the numbers, e.g. 100 for per cent.
    """
    low, high = (
        None if end is None else f"{end * scale:.3g}" for end in (estimate.low, estimate.high)
    )
    if estimate.value is not None:
        interval = f"{low}–{high}" if low and high else f"over {low}" if low else "no interval"
        return f"{estimate.value * scale:.3g} ({interval})"
    if estimate.outcome is Outcome.NOT_REACHED and low:
        return f"{estimate.outcome}, over {low}"
    return str(estimate.outcome)


def critical_text(critical: CriticalCli, tier: str) -> str:
    """The critical Λ of one index in a sentence, or why there is none.

    Args:
        critical: Λ_c of the index.
        tier: ending of its trace columns, one of `verdict.runs.TIERS`.
    """
    median = critical.median
    name = f"critical Λ of the {NAMES[tier]}"
    level = per_cent(median.confidence)
    failed = f"{critical.failures} of {critical.failures + critical.survivors} replicas failed"
    if median.outcome is Outcome.NOT_ENOUGH_FAILURES:
        return f"There is no {name} yet: {failed}, and at least {FEWEST_FAILURES} must."
    if median.value is None:
        low = median.low
        bound = "" if low is None else f" Its {level} interval begins at {low:.3g} ps."
        return (
            f"There is no {name}: {failed}, and more than half of them are estimated to outlive "
            f"the largest Λ that was seen.{bound}"
        )
    begin = f"{median.low:.3g}"
    high = "no upper end" if median.high is None else f"{median.high:.3g} ps"
    sentence = (
        f"The {name}, which half of the replicas do not outlive, is {median.value:.3g} ps "
        f"({level} interval: {begin} ps to {high}; {failed}). Of the failed, "
        f"{_rounded_per_cent(critical.missed)} failed below it"
    )
    if critical.false_alarms.outcome is not Outcome.ESTIMATED:
        return f"{sentence}; none survived to tell how many would run on above it."
    return f"{sentence}; of the others, {_rounded_per_cent(critical.false_alarms)} ran on above it."


def _rounded_per_cent(fraction: Estimate) -> str:
    return "–" if fraction.value is None else f"{fraction.value * 100:.0f} %"


def overlap_text(ends: Sequence[Ending]) -> str:
    """How far failed and surviving replicas overlap in Λ; empty where there are not both."""
    above = overlap(ends)
    if above is None:
        return ""
    least = min(end.cli_ps for end in ends if end.failed)
    conclusion = "they overlap" if above[0] else "they do not overlap"
    return (
        f"{above[0]} of the {above[1]} others gathered more Λ than the {least:.3g} ps at which one "
        f"failed: {conclusion}."
    )


def survival_rows(
    runs: Mapping[int, Run], rates: Mapping[int, FailureRate], *, horizon_ps: float
) -> list[list[str]]:
    """A table of how each generation's replicas fared, heading first.

    Args:
        runs: explorations by generation.
        rates: failure rates by generation.
        horizon_ps: time asked of each replica, ps.
    """
    confidence = per_cent(next(iter(rates.values())).confidence)
    heading = [
        "Generation",
        "Replicas",
        "Replacements",
        "Failed",
        "Simulated time, ps",
        "Failures, 1/ps",
        f"{confidence} bound of failures, 1/ps",
        f"Mean time without failure within {horizon_ps:g} ps (95 % interval), ps",
    ]
    rows = [
        [
            str(number),
            str(len(run.replicas)),
            str(sum(end.replaces for end in run.replicas)),
            str(rates[number].failures),
            significant(rates[number].time_ps),
            *(
                "–" if rate is None else f"{rate:.3g}"
                for rate in (rates[number].rate_per_ps, rates[number].bound_per_ps)
            ),
            _mean_time(run.replicas, horizon_ps),
        ]
        for number, run in runs.items()
    ]
    return [heading, *rows]


def _mean_time(replicas: Sequence[ReplicaEnd], horizon_ps: float) -> str:
    times = [end.time_ps for end in replicas]
    if not max(times) > 0:
        return "–"
    # Where all failed before the horizon, the survival curve is zero beyond the last failure.
    mean = survival.restricted_mean_ps(
        times,
        [end.failure is not None for end in replicas],
        horizon_ps=min(horizon_ps, max(times)),
        seed=0,
    )
    return estimate_text(mean)


def critical_rows(runs: Mapping[int, Run], critical: CriticalClis) -> list[list[str]]:
    """A table of critical Λ and overlap per index, heading first.

    Args:
        runs: explorations by generation.
        critical: Λ_c of each index over these explorations.
    """
    heading = [
        "Index",
        "Λ at failure, ps",
        "Λ of survivors, ps",
        "Survivors above the least Λ at failure",
        "Critical Λ (interval), ps",
        "Failed below critical Λ, %",
        "Survivors above critical Λ, %",
    ]
    rows = [heading]
    for tier in TIERS:
        of_tier = critical.of(tier)
        if of_tier is None:
            continue
        ends = [end for run in runs.values() for end in run.endings(tier)]
        above = overlap(ends)
        rows.append(
            [
                NAMES[tier],
                _range([end.cli_ps for end in ends if end.failed]),
                _range([end.cli_ps for end in ends if not end.failed]),
                "–" if above is None else f"{above[0]} of {above[1]}",
                estimate_text(of_tier.median),
                *(
                    "–" if fraction.value is None else estimate_text(fraction, scale=100)
                    for fraction in (of_tier.missed, of_tier.false_alarms)
                ),
            ]
        )
    return rows


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3g}–{max(values):.3g}" if values else "–"
