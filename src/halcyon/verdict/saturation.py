"""The verdict: are the dynamics calm, and right, and does the campaign go on?

    from pathlib import Path
    from halcyon.config import Settings
    from halcyon.verdict.runs import read_run
    from halcyon.verdict.saturation import assess_run, decide

    run, settings = read_run(Path("results/quickstart/ethanol/gen001")), Settings()
    assessment = assess_run(run.traces, run.replicas, settings)
    decision, reason = decide(assessment, None, generation=1, labels=95, settings=settings)

A campaign saturates only if each structure at each temperature is calm, for long enough to tell,
and the audit found the model right there. "Not enough data to tell" is an outcome of its own.

Not for: the statistics (`calm`, `events`, `audit`), when replicas fail (`survival`), or certifying
a model (`final.certificate`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from halcyon.config import Settings
from halcyon.verdict.calm import calm_parts
from halcyon.verdict.forms import (
    Assessment,
    Audit,
    AuditFinding,
    Calm,
    Decision,
    Ended,
    Explored,
    Finding,
    Verdict,
)
from halcyon.verdict.melting import with_order
from halcyon.verdict.reactions import with_reactions
from halcyon.wording import count

# Snakemake asks this module whether a campaign goes on: it need not load tables for that.
if TYPE_CHECKING:
    import pandas as pd

ALIKE = 1e-9
"""Relative difference of settings that count as the same."""
WORST_FIRST = (Finding.NOT_SATURATED, Finding.NOT_ENOUGH_DATA, Finding.SATURATED)


def confidence_spent(settings: Settings) -> float:
    """Confidence of one generation's bounds: each generation spends an equal part of the error.

    A campaign ends at the first generation whose bounds are under the limits, so that their errors
    add up.
    """
    error = (1 - settings.saturation.confidence) / settings.limits.max_generations
    return 1 - error


def assess(parts: Sequence[Calm], settings: Settings) -> Assessment:
    """Are the dynamics calm? The worst structure and temperature decides.

    Args:
        parts: each structure at each temperature.
        settings: limits and confidence.
    """
    finding, reason = Finding.NOT_ENOUGH_DATA, "no replicas"
    if parts:
        worst = min(parts, key=_rank)
        finding, reason = worst.finding, worst.reason
        if len(parts) > 1:
            reason = f"{worst.structure} at {worst.temperature_K:g} K: {reason}"
            others = sum(part.finding == finding for part in parts) - 1
            if others and finding is not Finding.SATURATED:
                reason += f" (and {count(others, 'other')} of {len(parts)})"
    return Assessment(
        finding=finding,
        reason=reason,
        parts=list(parts),
        events_limit_per_ns=settings.saturation.events_per_ns,
        unreliable_limit=settings.saturation.unreliable_fraction,
        confidence=settings.saturation.confidence,
        confidence_spent=confidence_spent(settings),
        replicas=sum(part.replicas for part in parts),
        failed=sum(part.failed for part in parts),
    )


def _rank(part: Calm) -> tuple[int, int, float]:
    """Order of parts: the worst first."""
    bound = float("inf") if part.events_bound_per_ns is None else part.events_bound_per_ns
    return WORST_FIRST.index(part.finding), -part.failed, -bound


def assess_run(traces: "pd.DataFrame", replicas: Sequence[Ended], settings: Settings) -> Assessment:
    """`assess` for a whole exploration, as its settings say; with reactions and melting."""
    parts = calm_parts(traces, replicas, settings, confidence=confidence_spent(settings))
    assessment = with_reactions(assess(parts, settings), replicas, settings.saturation)
    return with_order(assessment, replicas)


def is_calm(assessment: Assessment) -> bool:
    """Whether the dynamics are calm, so that an audit alone decides."""
    return assessment.finding is Finding.SATURATED


def decide(
    assessment: Assessment,
    audit: Audit | None,
    *,
    generation: int,
    labels: int,
    settings: Settings,
    core_hours: float = 0.0,
    not_computed: int = 0,
) -> tuple[Decision, str]:
    """What to do after a generation, and why.

    Args:
        assessment: from `assess`.
        audit: of this generation; None: there is none, as if it had too few frames.
        generation: counted from 0.
        labels: label calculations spent so far, failed ones included.
        settings: goals of the accuracy; budgets and generations.
        core_hours: core-hours that the whole campaign has spent so far.
        not_computed: frames that the budget of core-hours did not reach.
    """
    limits = settings.limits
    missing = f", {not_computed} frames not computed" if not_computed else ""
    right, accuracy = _right(audit, settings)
    if is_calm(assessment) and right:
        return Decision.SATURATED, f"calm ({assessment.reason}), and {accuracy}{missing}"
    if is_calm(assessment):
        finding = f"not saturated: calm ({assessment.reason}), but {accuracy}"
    else:
        finding = f"{assessment.finding}: {assessment.reason}; {accuracy}"
    if not_computed or (limits.core_hours is not None and core_hours >= limits.core_hours):
        limit = "unlimited" if limits.core_hours is None else f"{limits.core_hours:.4g}"
        spent = f"{core_hours:.4g} of {limit} core-hours spent{missing}"
        return Decision.BUDGET_SPENT, f"{spent}; {finding}"
    if labels >= limits.label_budget:
        return Decision.BUDGET_SPENT, f"{labels} of {limits.label_budget} labels spent; {finding}"
    if generation + 1 >= limits.max_generations:
        return Decision.MAX_GENERATIONS, f"{generation + 1} generations done; {finding}"
    return Decision.CONTINUE, finding


def _right(audit: Audit | None, settings: Settings) -> tuple[bool, str]:
    """Whether the audit lets a campaign saturate, and what it says."""
    goals = settings.accuracy.forces_mae_meV_per_A, settings.accuracy.energy_mae_meV_per_atom
    if goals == (None, None) or (audit and audit.finding is AuditFinding.NOT_ASKED):
        return True, "accuracy was not asked for"
    if audit is None:
        return False, "there is no audit of its errors"
    if audit.finding is AuditFinding.NOT_ENOUGH_DATA:
        return False, f"the audit has not enough data: {audit.reason}"
    return audit.finding is AuditFinding.PASSED, audit.reason


def goes_on(verdict: Verdict, settings: Settings) -> bool:
    """Whether a written verdict leads to another generation under the settings that hold now.

    A campaign that ended at a limit goes on when that limit is raised. A campaign that has
    saturated goes on when more is asked than it has shown (`asks_for_more`), reactions included.
    The verdict stays as it is; only where core-hours ran out before all frames were computed, it
    is made again (see `campaign.budget.reopen`).
    """
    limits = settings.limits
    allowed = (
        verdict.generation + 1 < limits.max_generations
        and verdict.labels.spent < limits.label_budget
        and (limits.core_hours is None or verdict.core_hours.spent < limits.core_hours)
    )
    if verdict.decision is not Decision.SATURATED:
        return allowed
    unreacted = verdict.saturation.bonds_changed == 0 and settings.saturation.reactions_needed
    return allowed and (unreacted or asks_for_more(settings, verdict.explored))


def explored(settings: Settings) -> Explored:
    """What these settings ask of the exploration, of its calm and of its accuracy."""
    exploration = settings.exploration
    pressure = exploration.pressure_bar if exploration.ensemble == "npt" else None
    sections = exploration.model_dump(mode="json") | {"pressure_bar": pressure}
    sections |= settings.saturation.model_dump(mode="json")
    sections |= settings.accuracy.model_dump(mode="json")
    return Explored(**{name: sections[name] for name in Explored.model_fields})


MORE_IS_MORE = ("time_ps", "replicas", "timestep_fs", "confidence", "decorrelation_times")
LESS_IS_MORE = (
    "bond_stretch_A",
    "min_distance_A",
    "site_distance_A",
    "events_per_ns",
    "unreliable_fraction",
    "atom_force_eV_per_A",
    "forces_mae_meV_per_A",
    "energy_mae_meV_per_atom",
)
OTHER_IS_MORE = ("ensemble", "pressure_bar", "bias")


def asks_for_more(settings: Settings, shown: Explored | None) -> bool:
    """Whether more is asked now than a saturated campaign has shown.

    More are: longer dynamics, more replicas, other temperatures, another ensemble or bias, a longer
    step; stricter limits of calm, of failures and of errors, and goals that were not asked for. Of
    verdicts of early releases only time and temperatures are known, and only those are compared:
    nobody's finished campaign begins to label because Halcyon was updated.

    Args:
        settings: that hold now.
        shown: what the verdict says was asked then; None: it does not say.
    """
    if shown is None:
        return False
    demanded = explored(settings)
    if not {*demanded.temperatures_K} <= {*shown.temperatures_K}:
        return True
    if shown.events_per_ns is None:
        return demanded.time_ps > shown.time_ps * (1 + ALIKE)
    if any(getattr(demanded, name) != getattr(shown, name) for name in OTHER_IS_MORE):
        return True
    if demanded.reactions_needed and not shown.reactions_needed:
        return True
    signed = [(name, 1) for name in MORE_IS_MORE] + [(name, -1) for name in LESS_IS_MORE]
    return any(
        _is_more(getattr(demanded, name), getattr(shown, name), sign) for name, sign in signed
    )


def _is_more(demanded: float | None, shown: float | None, sign: int) -> bool:
    """Whether a number asks for more than another; None asks for nothing."""
    if demanded is None:
        return False
    return shown is None or sign * (demanded - shown) > ALIKE * abs(shown)


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
