"""What a campaign came to, in sentences: the verdict, what it rests on, what to do next.

    from halcyon.report import collect, next_step, verdict_sentence

    report = collect(campaign, "ethanol", verdicts)
    verdict_sentence(report)  # Saturated after 3 generations: fewer than 31 events per ns and …
    next_step(report)  # Next: use …

Not for: reading the numbers (`collected`), or deciding anything (`verdict.saturation`).
"""

import math

from halcyon.final.certificate import Certificate, Conclusion
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.report.audit_words import error_text
from halcyon.report.calm_words import calm_clause, more_exploration
from halcyon.report.contents import Generation, SystemReport
from halcyon.verdict.before_failures import too_strict
from halcyon.verdict.forms import Assessment, Audit, AuditFinding, Decision, Finding
from halcyon.verdict.longer import next_time_ps
from halcyon.verdict.saturation import certificate_wanted
from halcyon.wording import count, significant

MANY_WITHOUT_LABEL = 0.2
"""Share of label calculations without a label above which the reader is told to look."""
ENOUGH_GAIN = 0.9
"""Error of a generation over that of the one before, under which more labels are said to help."""


def verdict_sentence(report: SystemReport) -> str:
    """The verdict and the numbers it rests on, in a sentence or two."""
    last, assessment, audit = report.last, report.last.saturation, report.last.audit
    under = conditions(report)
    generations = count(len(report.generations), "generation")
    failed = f"{assessment.failed} of {assessment.replicas} replicas failed"
    match last.decision:
        case Decision.SATURATED:
            bound = f"fewer than {calm_clause(assessment)}"
            return f"Saturated{under} after {generations}: {bound}, {failed}{_right(audit)}."
        case Decision.MAX_GENERATIONS:
            end = f"NOT saturated{under}: the campaign ended after {generations}, the most allowed."
        case Decision.BUDGET_SPENT:
            end = f"NOT saturated{under}: {_spent(last)} after {generations}."
        case _:
            end = f"Not finished: not saturated{under} after {generations} so far."
    if assessment.failed:
        return f"{end} {failed}{_right(audit)}."
    if assessment.finding is Finding.NOT_ENOUGH_DATA:
        return f"{end} {failed}, but {assessment.reason}{_right(audit)}."
    if assessment.finding is Finding.SATURATED:
        return f"{end} {failed}, and the dynamics are calm{_right(audit)}."
    return f"{end} {failed}, but there may be up to {calm_clause(assessment)}{_right(audit)}."


def _right(audit: Audit | None) -> str:
    """What the audit says, as the end of a sentence; empty for verdicts of early releases."""
    if audit is None:
        return ""
    match audit.finding:
        case AuditFinding.NOT_ASKED:
            return "; accuracy was not asked for"
        case AuditFinding.NOT_ENOUGH_DATA:
            return f"; whether it is right cannot be said: {audit.reason}"
    frames = count(sum(part.frames for part in audit.parts), "random frame")
    word = "right" if audit.finding is AuditFinding.PASSED else "wrong"
    return f"; {word} on {frames}: {error_text(audit)}"


def _spent(last: Generation) -> str:
    """Which budget is spent."""
    if not last.hours_ran_out:
        return f"the label budget is spent ({last.spent} of {last.budget})"
    spent, limit = last.core_hours.spent, last.core_hours.limit
    of = "" if limit is None else f" of {limit:.4g}"
    return f"the budget of core-hours is spent ({spent:.4g}{of})"


def certificate_sentence(report: SystemReport) -> str:
    """What the last model's certificate says, or why there is none."""
    if report.certificate is not None:
        return f"Certificate: {report.certificate.sentence}"
    when = report.plan.settings.certificate.when
    if certificate_wanted(report.last.decision, when):
        return "There is no certificate yet: its runs are still to be made."
    return (
        f"There is no certificate: certificate.when is '{when}', and this campaign's decision is "
        f"'{report.last.decision}'."
    )


def conditions(report: SystemReport) -> str:
    """What set the exploration apart from plain dynamics at constant volume and temperature."""
    settings, words = report.plan.settings.exploration, ""
    match settings.bias.kind:
        case "ramp":
            words = f" on a temperature ramp to {settings.bias.to_K:g} K"
        case "metadynamics":
            words = " under metadynamics"
    match settings.ensemble:
        case "nve":
            words += " without a thermostat (NVE)"
        case "npt":
            pressures = sorted({settings.pressure_at(kelvin) for kelvin in settings.temperatures_K})
            words += f" at constant pressure (NPT, {', '.join(f'{p:g}' for p in pressures)} bar)"
    return words


def coverage_sentence(report: SystemReport) -> str:
    """What the verdict rests on, and that it says nothing beyond."""
    last, exploration = report.last, report.plan.settings.exploration
    kelvin = ", ".join(f"{t:g}" for t in sorted({end.temperature_K for end in last.replicas}))
    first = len(last.replicas) - last.replaced
    fresh = ""
    if last.replaced:
        took = "places of failed ones" if last.replaced > 1 else "place of a failed one"
        fresh = f" and {last.replaced} that took the {took},"
    beyond = "Longer times and other temperatures are not covered."
    if exploration.bias.kind != "none":
        beyond = (
            "Λ and its rates are those of the biased dynamics, not of plain dynamics. Longer times "
            "are not covered."
        )
    return (
        f"It rests on {count(first, 'replica')} of up to {last.explored_ps:g} ps "
        f"at {kelvin} K{conditions(report)}{fresh} with the model of generation {last.number}, "
        f"{significant(last.simulated_ps)} ps in all. {beyond}"
    )


def next_step(report: SystemReport) -> str:
    """What to do now, in a sentence or two."""
    last, settings = report.last, report.plan.settings
    saturation, audit = last.saturation, last.audit
    failed = sum(n for status, n in last.unlabelled.items() if status != NOT_COMPUTED)
    warning = ""
    if last.spent and failed > MANY_WITHOUT_LABEL * last.spent:
        warning = (
            f" But {failed} of {last.spent} label calculations gave no label: read their messages "
            "below first."
        )
    match last.decision:
        case Decision.SATURATED if report.certificate is not None:
            return f"Next: {_after_certificate(report, report.certificate)}{warning}"
        case Decision.SATURATED:
            return (
                f"Next: use {report.model} for up to {last.explored_ps:g} ps at these "
                "temperatures; for longer or hotter dynamics, raise exploration.time_ps or "
                f"temperatures_K and run the same command.{warning}"
            )
        case Decision.CONTINUE:
            exploration = settings.exploration
            next_ps = next_time_ps(saturation, last.explored_ps, settings)
            longer = ""
            if next_ps > exploration.time_ps:
                longer = f", which explores for {next_ps:g} ps: the last was too short to tell"
            # What would be advised is done already, unless it is more than may be done.
            enough = next_ps < exploration.time_ps * exploration.extended_at_most
            done = longer and enough and saturation.finding is Finding.NOT_ENOUGH_DATA
            return (
                "Next: run the same command again, it goes on with generation "
                f"{last.number + 1}{longer}.{'' if done else _advice(report)}{warning}"
            )
        case Decision.BUDGET_SPENT:
            limit = f"limits.label_budget over {last.budget}"
            if last.hours_ran_out:
                limit = f"limits.core_hours over {last.core_hours.spent:.4g}"
        case _:
            limit = f"limits.max_generations over {settings.limits.max_generations}"
    if not saturation.failed and saturation.finding is Finding.NOT_ENOUGH_DATA:
        return f"Next: {more_exploration(report)}, {limit}, and run the same command.{warning}"
    if saturation.finding is Finding.SATURATED and audit is not None:
        return f"Next: raise {limit} and run the same command.{_advice(report)}{warning}"
    return (
        f"Next: raise {limit} and run the same command: what was labelled is not labelled again."
        f"{_advice(report)}{warning}"
    )


def _advice(report: SystemReport) -> str:
    """What another generation will do about it, and what to change where that may not be enough."""
    last = report.last
    if hint := too_strict(last.replicas, last.before_failures, report.plan.settings):
        return f" {hint[0].upper()}{hint[1:]}, or take kind: reactive, whose bonds may break."
    return "" if last.audit is None else _more_labels(report, last.saturation, last.audit)


def _more_labels(report: SystemReport, assessment: Assessment, audit: Audit) -> str:
    """What more labels will do about it."""
    if not assessment.failed and assessment.finding is Finding.NOT_ENOUGH_DATA:
        return f" More labels alone will not end the campaign: {more_exploration(report)}."
    if audit.finding is AuditFinding.NOT_ENOUGH_DATA:
        return f" The audit needs more frames that can be labelled: raise audit.frames{_why(audit)}"
    if audit.finding is AuditFinding.MISSED and assessment.finding is Finding.SATURATED:
        return (
            " The dynamics are calm but the forces are wrong: the next generation labels diverse "
            f"random frames beside the audit's. {_trend(report)}"
        )
    if audit.finding is AuditFinding.PASSED:
        return (
            " The forces are right on random frames but the dynamics are not calm: the next "
            "generation labels what was unreliable."
        )
    return ""


def _why(audit: Audit) -> str:
    return f" ({audit.reason})."


def _trend(report: SystemReport) -> str:
    """Whether the audit's errors fall from generation to generation, and what follows from it."""
    audits = [g.audit for g in report.generations if g.audit is not None]
    errors = [e[1].value for audit in audits if (e := audit.worst("judged_forces_mae"))]
    model = report.plan.settings.model
    other = (
        f"a larger model (model.channels over {model.channels}, model.max_L over {model.max_L}) or "
        "goals under accuracy that this model can reach"
    )
    if len(errors) < 2:
        return f"If the audit's errors do not fall with more labels, try {other}."
    numbers = f"{significant(errors[-2])} meV/Å, then {significant(errors[-1])}"
    if errors[-1] < ENOUGH_GAIN * errors[-2]:
        return f"The audit's force error falls ({numbers}): more labels help (selection.frames)."
    return f"The audit's force error hardly falls ({numbers}): more labels may not do; try {other}."


def _after_certificate(report: SystemReport, certificate: Certificate) -> str:
    """What to do with a saturated campaign's certificate."""
    nvt = certificate.runs[0]
    kelvin = ", ".join(f"{t:g}" for t in nvt.temperatures_K)
    match certificate.conclusion:
        case Conclusion.STABLE:
            final = report.certificate_file.parents[1] / "final"
            return (
                f"use {final} for runs of up to {significant(nvt.time_ps)} ps at {kelvin} K; "
                "for longer or hotter ones, raise certificate.time_ps or temperatures_K and add "
                "--forcerun certify to the same command."
            )
        case Conclusion.NOT_ENOUGH_DATA:
            return (
                "raise certificate.time_ps or certificate.replicas and add --forcerun certify to "
                "the same command."
            )
    nve = certificate.runs[1].overall.failures.failures
    if certificate.conclusion is Conclusion.NOT_STABLE and not nvt.overall.failures.failures + nve:
        return (
            "the energy drifts: try a shorter step (certificate.timestep_fs) and add --forcerun "
            "certify to the same command; if it drifts less, explore with that step, too."
        )
    return (
        f"the campaign's runs could not see this: set {_as_certified(report, certificate)}, and "
        "run the same command: it goes on with another generation, labels what leaves the domain, "
        "and certifies anew."
    )


def _as_certified(report: SystemReport, certificate: Certificate) -> str:
    """Settings that let the exploration see what the certificate's runs saw."""
    settings, last, nvt = report.plan.settings, report.last, certificate.runs[0]
    explored = {*settings.exploration.temperatures_K}
    temperatures = explored | {*nvt.temperatures_K}
    # Without a thermostat a replica is as hot as the strain of its first frame makes it.
    if (hot := _failed_at(report, certificate)) > 1.1 * max(temperatures):
        temperatures.add(math.ceil(hot / 50) * 50.0)
    shown = [part.finding for part in nvt.overall.calm]
    shown += [f.excursions.finding for f in nvt.findings[1:] if f.excursions is not None]
    restless = Finding.NOT_SATURATED in shown
    changes = []
    if restless or temperatures == explored:
        # Runs as long as the certificate's can miss what those saw: twice the time explored.
        time_ps = max(nvt.time_ps, 2 * last.explored_ps)
        changes.append(f"exploration.time_ps to {significant(time_ps)}")
    if temperatures > explored:
        changes.append(f"exploration.temperatures_K to {sorted(temperatures)}")
    if last.number + 1 >= settings.limits.max_generations:
        changes.append(f"limits.max_generations over {settings.limits.max_generations}")
    if last.spent >= settings.limits.label_budget:
        changes.append(f"limits.label_budget over {settings.limits.label_budget}")
    return ", ".join(changes)


def _failed_at(report: SystemReport, certificate: Certificate) -> float:
    """Mean temperature of the hottest replica that failed without a thermostat, K; 0: none did."""
    nve, traces = certificate.runs[1], report.certificate_traces[1]
    mean = traces.groupby("replica")["temperature"].mean()
    failed = [end.replica for end in nve.replicas if end.failure is not None]
    return max((float(mean[r]) for r in failed if r in mean), default=0.0)
