"""What a campaign came to, in sentences: the verdict, what it rests on, what to do next.

    from halcyon.report import collect, next_step, verdict_sentence

    report = collect(campaign, "ethanol", verdicts)
    verdict_sentence(report)  # Saturated after 3 generations: fewer than 0.0208 excursions per …
    next_step(report)  # Next: use …

Not for: reading the numbers (`collected`), or deciding anything (`verdict.saturation`).
"""

import math

from halcyon.final.certificate import Certificate, Conclusion
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.report.contents import Generation, SystemReport
from halcyon.report.summary import number_text
from halcyon.verdict.forms import Decision, Finding
from halcyon.verdict.saturation import certificate_wanted
from halcyon.wording import count, per_cent, significant

MANY_WITHOUT_LABEL = 0.2
"""Share of label calculations without a label above which the reader is told to look."""


def verdict_sentence(report: SystemReport) -> str:
    """The verdict and the numbers it rests on, in a sentence or two."""
    last, assessment = report.last, report.last.saturation
    under = conditions(report)
    generations = count(len(report.generations), "generation")
    failed = f"{assessment.failed} of {assessment.replicas} replicas failed"
    limit = f"{per_cent(assessment.confidence)} bound, limit {assessment.rate_limit_per_atom_ps:g}"
    bound = number_text(assessment.rate_bound_per_atom_ps)
    match last.decision:
        case Decision.SATURATED:
            return (
                f"Saturated{under} after {generations}: fewer than {bound} excursions per atom and "
                f"ps ({limit}), {failed}."
            )
        case Decision.MAX_GENERATIONS:
            end = f"NOT saturated{under}: the campaign ended after {generations}, the most allowed."
        case Decision.BUDGET_SPENT:
            end = f"NOT saturated{under}: {_spent(last)} after {generations}."
        case _:
            end = f"Not finished: not saturated{under} after {generations} so far."
    if assessment.failed:
        return f"{end} {failed}."
    if assessment.finding is Finding.NOT_ENOUGH_DATA:
        return f"{end} {failed}, but {assessment.reason}."
    return f"{end} {failed}, but there may be up to {bound} excursions per atom and ps ({limit})."


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
            words += f" at constant pressure (NPT, {settings.pressure_bar:g} bar)"
    return words


def coverage_sentence(report: SystemReport) -> str:
    """What the verdict rests on, and that it says nothing beyond."""
    last, settings = report.last, report.plan.settings.exploration
    kelvin = ", ".join(f"{t:g}" for t in sorted({end.temperature_K for end in last.replicas}))
    first = len(last.replicas) - last.replaced
    fresh = ""
    if last.replaced:
        took = "places of failed ones" if last.replaced > 1 else "place of a failed one"
        fresh = f" and {last.replaced} that took the {took},"
    beyond = "Longer times and other temperatures are not covered."
    if settings.bias.kind != "none":
        beyond = (
            "Λ and its rates are those of the biased dynamics, not of plain dynamics. Longer times "
            "are not covered."
        )
    return (
        f"It rests on {count(first, 'replica')} of up to {settings.time_ps:g} ps "
        f"at {kelvin} K{conditions(report)}{fresh} with the model of generation {last.number}, "
        f"{significant(last.simulated_ps)} ps in all. {beyond}"
    )


def next_step(report: SystemReport) -> str:
    """What to do now, in a sentence or two."""
    last, settings = report.last, report.plan.settings
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
                f"Next: use {report.model} for up to {settings.exploration.time_ps:g} ps at these "
                "temperatures; for longer or hotter dynamics, raise exploration.time_ps or "
                f"temperatures_K and run the same command.{warning}"
            )
        case Decision.CONTINUE:
            return (
                "Next: run the same command again, it goes on with generation "
                f"{last.number + 1}.{warning}"
            )
        case Decision.BUDGET_SPENT:
            limit = f"limits.label_budget over {last.budget}"
            if last.hours_ran_out:
                limit = f"limits.core_hours over {last.core_hours.spent:.4g}"
        case _:
            limit = f"limits.max_generations over {settings.limits.max_generations}"
    if not last.saturation.failed and last.saturation.finding is Finding.NOT_ENOUGH_DATA:
        return f"Next: {_more_time(report)}, {limit}, and run the same command.{warning}"
    return (
        f"Next: raise {limit} and run the same command: what was labelled is not labelled again."
        f"{warning}"
    )


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
    calm = all(findings.excursions.finding == Finding.SATURATED for findings in nvt.findings[1:])
    changes = []
    if not calm or temperatures == explored:
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


def _more_time(report: SystemReport) -> str:
    """How much more simulated time a bound under the limit needs even without an excursion."""
    assessment = report.last.saturation
    needed = -math.log(1 - assessment.confidence) / assessment.rate_limit_per_atom_ps
    return (
        "raise exploration.time_ps or replicas (the late window has "
        f"{significant(assessment.atom_time_ps)} atom-ps; without any excursion it takes at "
        f"least {significant(needed)})"
    )
