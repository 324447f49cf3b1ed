"""The explorations of a system, and what they say about survival.

    from pathlib import Path
    from halcyon.verdict.runs import critical_clis, failures, read_runs

    runs = read_runs(Path("results/quickstart/ethanol"), last=1)
    failures(runs[1].replicas, confidence=0.95)  # of that generation alone
    critical_clis(runs, confidence=0.95)  # of all generations so far

Not for: the estimators (`survival`), the decision (`saturation`), or words and tables
(`report.survival_words`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from halcyon import tables
from halcyon.verdict import survival
from halcyon.verdict.forms import CriticalClis, Ended, ExplorationSummary, FailureRate, ReplicaEnd
from halcyon.verdict.survival import Ending

TIERS = ("error", "label", "guard")
"""Endings of trace columns whose Λ is held against failures: of the expected error, which decides,
and of the intervals of node energies. Traces of early releases have no expected error."""


def deciding(columns: Iterable[str]) -> str:
    """By which index a run was judged: `error`, or `label` in traces of early releases.

    Args:
        columns: of the traces.
    """
    return "error" if "cli_error" in set(columns) else "label"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One generation's exploration.

    Attributes:
        traces: see `traces.TRACE_COLUMNS`.
        replicas: how each replica ended.
        ended_early: why not all of the time was explored that was asked for; empty: it was.
    """

    traces: pd.DataFrame
    replicas: list[ReplicaEnd]
    ended_early: str = ""

    def endings(self, tier: str) -> list[Ending]:
        """How the replicas ended, with their Λ of one of `TIERS`; none where it was not watched."""
        column = f"cli_{tier}"
        if column not in self.traces:
            return []
        return survival.endings(self.traces, self.replicas, column=column)

    @property
    def deciding(self) -> str:
        """By which index the run was judged, see `deciding`."""
        return deciding(self.traces.columns)


def read_run(folder: Path) -> Run:
    """Read a generation's exploration from its folder.

    Raises:
        InputError: no list of replicas or traces, or damaged ones; the message names the file.
    """
    summary = ExplorationSummary.read(folder / "exploration.json")
    return Run(
        traces=tables.read(folder / "traces.parquet").to_pandas(),
        replicas=summary.replicas,
        ended_early=summary.ended_early,
    )


def read_runs(folder: Path, *, last: int) -> dict[int, Run]:
    """Explorations of a system by generation, from the first on.

    A later generation than `last` is never looked at, though its files may be there; an earlier
    one whose traces were deleted is missing in the answer.

    Args:
        folder: of the system's results.
        last: last generation.
    """
    folders = {number: folder / f"gen{number:03d}" for number in range(last + 1)}
    return {
        number: read_run(path)
        for number, path in folders.items()
        if (path / "traces.parquet").exists() and (path / "exploration.json").exists()
    }


def failures(replicas: Sequence[Ended], *, confidence: float) -> FailureRate:
    """Failures per simulated time with their exact bound, see `survival.failure_rate`.

    Rate and bound are None where nothing was simulated.
    """
    ends = [
        Ending(time_ps=end.time_ps, cli_ps=0.0, failed=end.failure is not None) for end in replicas
    ]
    if sum(end.time_ps for end in ends) > 0:
        return survival.failure_rate(ends, confidence=confidence)
    return FailureRate(
        failures=sum(end.failed for end in ends),
        time_ps=0.0,
        rate_per_ps=None,
        bound_per_ps=None,
        confidence=confidence,
    )


def critical_clis(runs: Mapping[int, Run], *, confidence: float) -> CriticalClis:
    """Λ_c of each of `TIERS` over all replicas that were watched by it, see `critical_cli`.

    Args:
        runs: explorations by generation.
        confidence: two-sided level of the intervals.
    """
    ends = {tier: [end for run in runs.values() for end in run.endings(tier)] for tier in TIERS}
    watched = {
        tier: survival.critical_cli(of_tier, confidence=confidence)
        for tier, of_tier in ends.items()
        if of_tier
    }
    return CriticalClis(generations=list(runs), **watched)


def overlap(ends: Sequence[Ending]) -> tuple[int, int] | None:
    """Survivors with more Λ than the least at which a replica failed, and survivors in all.

    None where none failed or none survived.
    """
    failed = [end.cli_ps for end in ends if end.failed]
    survived = [end.cli_ps for end in ends if not end.failed]
    if not failed or not survived:
        return None
    return sum(value > min(failed) for value in survived), len(survived)
