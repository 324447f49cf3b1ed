"""Do replicas survive? What the verdict and the page say about it, in numbers and in words.

    runs = read_runs(Path("results/quickstart/ethanol"), last=2)
    failures(runs[2].replicas, confidence=0.95)  # of that generation alone
    critical_cli(runs, confidence=0.95)  # of all generations so far

Dictionaries here are what `verdict.json` holds, so that a page made from an old file can say the
same as one made from a new one.

Not for: the estimators (`survival`), the decision (`saturation`), or drawing (`page`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from halcyon import files
from halcyon.verdict import survival
from halcyon.verdict.estimates import FEWEST_FAILURES, Outcome
from halcyon.verdict.survival import Ending

TIERS = ("label", "guard")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One generation's exploration.

    Attributes:
        traces: see `traces.TRACE_COLUMNS`.
        replicas: how each replica ended, see `explore`.
    """

    traces: pd.DataFrame
    replicas: list[dict[str, Any]]

    def endings(self, tier: str) -> list[Ending]:
        """How the replicas ended, with their Λ of `label` or `guard`."""
        return survival.endings(self.traces, self.replicas, column=f"cli_{tier}")


def read_run(folder: Path) -> Run:
    """Read a generation's exploration from its folder.

    Raises:
        InputError: no list of replicas, or a damaged one; it is named.
    """
    replicas = files.read_json(folder / "exploration.json")["replicas"]
    return Run(traces=pd.read_parquet(folder / "traces.parquet"), replicas=replicas)


def read_runs(folder: Path, *, last: int) -> dict[int, Run]:
    """Explorations of a system by generation, from the first on.

    A later generation than `last` is never looked at, though its files may be there; an earlier
    one whose traces were deleted is missing in the answer.

    Args:
        folder: of the system's results.
        last: last generation.
    """
    found = {number: folder / f"gen{number:03d}" for number in range(last + 1)}
    return {
        number: read_run(path)
        for number, path in found.items()
        if (path / "traces.parquet").exists() and (path / "exploration.json").exists()
    }


def failures(replicas: Sequence[dict[str, Any]], *, confidence: float) -> dict[str, Any]:
    """Failures per simulated time with their exact bound, see `survival.FailureRate`.

    Rate and bound are None where nothing was simulated.
    """
    ends = [
        Ending(time_ps=float(e["time_ps"]), cli_ps=0.0, failed=e["failure"] is not None)
        for e in replicas
    ]
    if sum(end.time_ps for end in ends) > 0:
        return asdict(survival.failure_rate(ends, confidence=confidence))
    return {
        "failures": sum(end.failed for end in ends),
        "time_ps": 0.0,
        "rate_per_ps": None,
        "bound_per_ps": None,
        "confidence": confidence,
    }


def critical_cli(runs: Mapping[int, Run], *, confidence: float) -> dict[str, Any]:
    """Λ_c of label and guard CLI over all replicas, see `survival.CriticalCli`.

    Args:
        runs: explorations by generation.
        confidence: two-sided level of the intervals.

    Returns:
        `generations` that counted, and per tier the estimate and its error rates.
    """
    found: dict[str, Any] = {"generations": list(runs)}
    for tier in TIERS:
        ends = [end for run in runs.values() for end in run.endings(tier)]
        found[tier] = asdict(survival.critical_cli(ends, confidence=confidence))
    return found


def rate_text(told: Mapping[str, Any]) -> str:
    """A failure rate and its bound in plain words, from what `failures` gives.

    "in 16 ps: with 95 % confidence fewer than 1 failure per 5.3 ps of one replica"
    """
    if told["bound_per_ps"] is None:
        return "and nothing was simulated: a rate cannot be told"
    time, level = plain(told["time_ps"]), f"{told['confidence'] * 100:g} %"
    bound = f"{_down(1 / told['bound_per_ps'])} ps"
    if not told["failures"]:
        return (
            f"in {time} ps: with {level} confidence fewer than 1 failure per {bound} of one replica"
        )
    rate = f"1 failure per {plain(1 / told['rate_per_ps'])} ps of one replica"
    return f"in {time} ps, {rate}: with {level} confidence fewer than 1 per {bound}"


def _down(value: float) -> str:
    """Two digits, rounded down: more is never claimed than was shown."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return plain(math.floor(value / unit + 1e-9) * unit)


def plain(value: float) -> str:
    """Three significant digits, without a power of ten where the number is large."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def estimate_text(told: Mapping[str, Any], *, scale: float = 1.0) -> str:
    """An estimate with its interval, or why there is none.

    Args:
        told: a `estimates.Estimate` as a dictionary.
        scale: factor of the numbers, e.g. 100 for per cent.
    """
    low, high = (None if told[k] is None else f"{told[k] * scale:.3g}" for k in ("low", "high"))
    if told["outcome"] == Outcome.ESTIMATED:
        interval = f"{low}–{high}" if low and high else f"over {low}" if low else "no interval"
        return f"{told['value'] * scale:.3g} ({interval})"
    if told["outcome"] == Outcome.NOT_REACHED and low:
        return f"{told['outcome']}, over {low}"
    return str(told["outcome"])


def critical_text(told: Mapping[str, Any], tier: str) -> str:
    """The critical Λ of one tier in a sentence, or why there is none.

    Args:
        told: what `critical_cli` gives, of the tier.
        tier: its name.
    """
    median, failed, survivors = told["median"], told["failures"], told["survivors"]
    name = f"critical Λ of the {tier} domain"
    level = f"{median['confidence'] * 100:g} %"
    of = f"{failed} of {failed + survivors} replicas failed"
    match median["outcome"]:
        case Outcome.NOT_ENOUGH_FAILURES:
            return f"There is no {name} yet: {of}, and at least {FEWEST_FAILURES} must."
        case Outcome.NOT_REACHED:
            low = median["low"]
            bound = "" if low is None else f" Its {level} interval begins at {low:.3g} ps."
            return (
                f"There is no {name}: {of}, and more than half of them are estimated to outlive "
                f"the largest Λ that was seen.{bound}"
            )
    high = "no upper end" if median["high"] is None else f"{median['high']:.3g} ps"
    said = (
        f"The {name}, which half of the replicas do not outlive, is {median['value']:.3g} ps "
        f"({level} interval: {median['low']:.3g} ps to {high}; {of}). Of the failed, "
        f"{told['missed']['value'] * 100:.0f} % failed below it"
    )
    if told["false_alarms"]["outcome"] != Outcome.ESTIMATED:
        return f"{said}; none survived to tell how many would run on above it."
    return f"{said}; of the others, {told['false_alarms']['value'] * 100:.0f} % ran on above it."


def overlap(ends: Sequence[Ending]) -> tuple[int, int] | None:
    """Survivors with more Λ than the least at which a replica failed, and survivors in all.

    None where none failed or none survived.
    """
    failed = [end.cli_ps for end in ends if end.failed]
    survived = [end.cli_ps for end in ends if not end.failed]
    if not failed or not survived:
        return None
    return sum(value > min(failed) for value in survived), len(survived)


def overlap_text(ends: Sequence[Ending]) -> str:
    """How far failed and surviving replicas overlap in Λ; empty where there are not both."""
    above = overlap(ends)
    if above is None:
        return ""
    least = min(end.cli_ps for end in ends if end.failed)
    said = "they overlap" if above[0] else "they do not overlap"
    return (
        f"{above[0]} of the {above[1]} others gathered more Λ than the {least:.3g} ps at which one "
        f"failed: {said}."
    )


def survival_rows(
    runs: Mapping[int, Run], rates: Mapping[int, Mapping[str, Any]], *, horizon_ps: float
) -> list[list[str]]:
    """A table of how each generation's replicas fared, heading first.

    Args:
        runs: explorations by generation.
        rates: what `failures` gives, by generation.
        horizon_ps: time asked of each replica, ps.
    """
    confidence = f"{next(iter(rates.values()))['confidence'] * 100:g} %"
    rows = [
        [
            "Generation",
            "Replicas",
            "Replacements",
            "Failed",
            "Simulated time, ps",
            "Failures, 1/ps",
            f"their {confidence} bound, 1/ps",
            f"Mean time without failure within {horizon_ps:g} ps (95 % interval), ps",
        ]
    ]
    for number, run in runs.items():
        rate = rates[number]
        rows.append(
            [
                str(number),
                str(len(run.replicas)),
                str(sum(replaced(entry) for entry in run.replicas)),
                str(rate["failures"]),
                plain(rate["time_ps"]),
                *(
                    "–" if rate[key] is None else f"{rate[key]:.3g}"
                    for key in ("rate_per_ps", "bound_per_ps")
                ),
                _mean_time(run.replicas, horizon_ps),
            ]
        )
    return rows


def _mean_time(replicas: Sequence[dict[str, Any]], horizon_ps: float) -> str:
    times = [float(entry["time_ps"]) for entry in replicas]
    if not max(times) > 0:
        return "–"
    # Where all failed before the horizon, the survival curve is zero beyond the last.
    mean = survival.restricted_mean_ps(
        times,
        [entry["failure"] is not None for entry in replicas],
        horizon_ps=min(horizon_ps, max(times)),
        seed=0,
    )
    return estimate_text(asdict(mean))


def critical_rows(runs: Mapping[int, Run], told: Mapping[str, Any]) -> list[list[str]]:
    """A table of critical Λ and overlap per tier, heading first.

    Args:
        runs: explorations by generation.
        told: what `critical_cli` gives.
    """
    rows = [
        [
            "Domain",
            "Λ at failure, ps",
            "Λ of those that ran on, ps",
            "ran on above the least Λ at failure",
            "Critical Λ (interval), ps",
            "failed below it, %",
            "ran on above it, %",
        ]
    ]
    for tier in TIERS:
        ends = [end for run in runs.values() for end in run.endings(tier)]
        above = overlap(ends)
        rows.append(
            [
                tier,
                *(_range([e.cli_ps for e in ends if e.failed is which]) for which in (True, False)),
                "–" if above is None else f"{above[0]} of {above[1]}",
                estimate_text(told[tier]["median"]),
                *(
                    estimate_text(told[tier][key], scale=100)
                    if told[tier][key]["outcome"] == Outcome.ESTIMATED
                    else "–"
                    for key in ("missed", "false_alarms")
                ),
            ]
        )
    return rows


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3g}–{max(values):.3g}" if values else "–"


def replaced(entry: Mapping[str, Any]) -> bool:
    """Whether a replica took the place of a failed one."""
    return float(entry.get("began_ps", 0.0)) > 0
