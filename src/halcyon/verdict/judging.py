"""From a generation's exploration and the state of the budgets to its verdict.

    from pathlib import Path
    from halcyon.config import Settings
    from halcyon.verdict.forms import LabelCounts
    from halcyon.verdict.judging import judge
    from halcyon.verdict.runs import read_runs

    runs = read_runs(Path("results/quickstart/ethanol"), last=1)
    labels = LabelCounts(train=52, validation=23, test=20, spent=95)
    judge(runs, Settings(), system="ethanol", generation=1, labels=labels, core_hours=4.2).decision

Not for: the rule of the decision (`saturation.decide`), or the statistics (`events`, `audit`,
`runs`).
"""

from collections.abc import Mapping, Sequence

from halcyon.config import Settings
from halcyon.verdict import saturation
from halcyon.verdict.before_failures import too_strict
from halcyon.verdict.forms import (
    Audit,
    BeforeFailures,
    CoreHours,
    LabelCounts,
    SignalReport,
    Verdict,
)
from halcyon.verdict.runs import Run, critical_clis, failures


def judge(
    runs: Mapping[int, Run],
    settings: Settings,
    *,
    system: str,
    generation: int,
    labels: LabelCounts,
    core_hours: float,
    audit: Audit | None = None,
    signals: Sequence[SignalReport] = (),
    before_failures: BeforeFailures | None = None,
) -> Verdict:
    """The verdict of a generation.

    Args:
        runs: explorations by generation, this generation's included and none of a later one.
        settings: of the system.
        system: name of the system.
        generation: counted from 0.
        labels: frames of the campaign so far.
        core_hours: spent by the whole campaign so far.
        audit: of this generation.
        signals: how well each signal did on the audit's frames.
        before_failures: errors on frames shortly before its failures.
    """
    limits, confidence = settings.limits, settings.saturation.confidence
    run = runs[generation]
    assessment = saturation.assess_run(run.traces, run.replicas, settings)
    decision, reason = saturation.decide(
        assessment,
        audit,
        generation=generation,
        labels=labels.spent,
        settings=settings,
        core_hours=core_hours,
        not_computed=labels.not_computed,
    )
    if hint := too_strict(run.replicas, before_failures, settings):
        reason += f"; {hint}"
    return Verdict(
        schema=Verdict.SCHEMA,
        system=system,
        generation=generation,
        decision=decision,
        reason=reason,
        labels=labels,
        label_budget=limits.label_budget,
        core_hours=CoreHours(spent=core_hours, limit=limits.core_hours, of=limits.core_hours_of),
        explored=saturation.explored(settings),
        saturation=assessment,
        audit=audit,
        signals=list(signals),
        failures=failures(run.replicas, confidence=confidence),
        before_failures=before_failures,
        critical_cli=critical_clis(runs, confidence=confidence),
    )
