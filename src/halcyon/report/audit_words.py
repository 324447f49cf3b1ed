"""Is the model right where its dynamics goes? Sentences and tables about the audit.

    from halcyon.report import collect
    from halcyon.report.audit_words import audit_text, signal_text

    report = collect(campaign, "ethanol", verdicts)
    audit_text(report)  # Right: on 20 random frames of its own dynamics …
    signal_text(report)  # The index counts by the expected error …

Not for: measuring errors (`verdict.audit`), or drawing them (`page.audit`).
"""

from collections.abc import Sequence

from halcyon.report.contents import Generation, SystemReport
from halcyon.report.survival_words import estimate_text
from halcyon.verdict.audit import INDEX
from halcyon.verdict.estimates import Estimate, Interval
from halcyon.verdict.forms import Audit, Audited, AuditFinding, SignalReport
from halcyon.wording import count, listed, per_cent, significant

FEW_FRAMES = 10
"""With fewer labelled audit frames of a structure and temperature the reader is told."""
FEW_REPLICAS = 4
"""So with frames of fewer replicas: intervals come from the spread between those."""
FEW_BAD_ATOMS = 10
"""So with fewer bad atoms, on which a signal's report rests."""
NOT_AUDITED = (
    "The model was not audited: the version of Halcyon that judged it labelled no random frames. "
    "How wrong its forces are where its dynamics goes is not known; the errors on the test set say "
    "nothing about that."
)


def place(part: Audited) -> str:
    """Structure and temperature: "ethanol at 500 K"."""
    return f"{part.structure} at {part.temperature_K:g} K"


def error_text(audit: Audit) -> str:
    """Upper ends of the errors against their goals, the worst structure and temperature of each.

    "forces wrong by at most 38 meV/Å on average (goal 43)"
    """
    clauses = []
    for quantity, words, unit, goal in (
        ("judged_forces_mae", "forces", "meV/Å", audit.forces_goal_meV_per_A),
        ("energy_mae_meV_per_atom", "energies", "meV/atom", audit.energy_goal_meV_per_atom),
    ):
        measured = audit.worst(quantity)
        if measured is None:
            continue
        part, error = measured
        of = f"goal {goal:g}" if goal is not None else "no goal"
        where = f", {place(part)}" if len(audit.parts) > 1 else ""
        clauses.append(
            f"{words} wrong by up to {significant(error.high)} {unit} on average ({of}{where})"
        )
    if measured := audit.worst("stress_mae_GPa"):
        part, error = measured
        where = f" ({place(part)})" if len(audit.parts) > 1 else ""
        clauses.append(f"stresses by up to {significant(error.high)} GPa{where}")
    return listed(clauses) if clauses else ""


def audit_text(report: SystemReport) -> str:
    """What the last generation's audit says, in a sentence or two."""
    audit = report.last.audit
    if audit is None:
        return NOT_AUDITED
    frames = sum(part.frames for part in audit.parts)
    measured = f"on {count(frames, 'random frame')} of its own dynamics"
    if errors := error_text(audit):
        measured += f": {errors}, with {per_cent(round(audit.confidence, 4))} confidence"
    match audit.finding:
        case AuditFinding.PASSED:
            text = f"Right {measured}."
        case AuditFinding.MISSED:
            text = f"Wrong {measured}."
        case AuditFinding.NOT_ASKED:
            text = (
                "Accuracy was not asked for: both goals under accuracy are null, and the verdict "
                f"does not depend on errors. Measured {measured}."
            )
        case _:
            text = f"It cannot be said whether the model is right: {audit.reason}."
    return " ".join([text, *_second_opinion(audit), *_caveats(audit)])


def second_name(method: str) -> str:
    """A value of audit.second_opinion as people know it."""
    names = {
        INDEX: "the index's expectation",
        "gfn1": "the second opinion (GFN1-xTB)",
        "gfn2": "the second opinion (GFN2-xTB)",
    }
    return names.get(method, method)


def _second_opinion(audit: Audit) -> list[str]:
    """What foretold errors add to the audit's numbers, a sentence for each thing."""
    name = second_name(audit.second_opinion)
    sentences = []
    for part in audit.parts:
        second, plain = part.second_opinion, part.forces_mae_meV_per_A
        if second is None or plain is None:
            continue
        powered = second.forces_mae_meV_per_A
        if powered is None:
            sentences.append(
                f"{name[0].upper()}{name[1:]} does not count for {place(part)}: {second.reason}."
            )
            continue
        without = f", {second.failed} of them without an answer" if second.failed else ""
        sentences.append(
            f"Forces of {place(part)} are judged with {name} on "
            f"{count(second.frames, 'random frame')}{without}: "
            f"{interval_text(powered)} meV/Å; by the labels alone {interval_text(plain)}."
        )
    return sentences


def _caveats(audit: Audit) -> list[str]:
    """What makes the numbers less sure than they look."""
    caveats = []
    if few := [part for part in audit.parts if part.frames < FEW_FRAMES]:
        caveats.append(
            "Few frames: "
            + listed(f"{part.frames} of {place(part)}" for part in few)
            + "; the intervals are wide, and rare errors may be missing."
        )
    if alike := [part for part in audit.parts if part.frames and part.replicas < FEW_REPLICAS]:
        caveats.append(
            "Few replicas: "
            + listed(f"{part.replicas} of {place(part)}" for part in alike)
            + "; frames of one replica are alike, and how far replicas differ is hardly known."
        )
    if bad := sum(part.bad for part in audit.parts):
        frames = sum(part.frames + part.bad for part in audit.parts)
        caveats.append(
            f"{bad} of {frames} audit frames have no label that can be trusted: they are not in "
            "these numbers, and may be the worst."
        )
    return caveats


def audit_rows(generations: Sequence[Generation]) -> list[list[str]]:
    """Errors on audit frames by generation, structure and temperature; heading first."""
    parts = [(g.number, g.audit, part) for g in generations if g.audit for part in g.audit.parts]
    judged_twice = any(part.second_opinion for _, _, part in parts)
    stressed = any(part.frames_with_stress for _, _, part in parts)
    heading = [
        "Generation",
        "Structure",
        "T, K",
        "Frames / replicas",
        "Without a label",
        "Force MAE (interval), meV/Å",
        *(["… with foretold errors (interval), meV/Å"] if judged_twice else []),
        "Goal, meV/Å",
        "Force RMSE (interval), meV/Å",
        "Atom error, 95 % are better (interval), eV/Å",
        "Energy MAE (interval), meV/atom",
        "Goal, meV/atom",
        *(["Stress MAE (interval), GPa"] if stressed else []),
        "Finding",
    ]
    return [heading] + [
        [
            str(number),
            part.structure,
            f"{part.temperature_K:g}",
            f"{part.frames} / {part.replicas}",
            str(part.bad),
            interval_text(part.forces_mae_meV_per_A),
            *([_with_second(part)] if judged_twice else []),
            _goal(audit.forces_goal_meV_per_A),
            interval_text(part.forces_rmse_meV_per_A),
            interval_text(part.atom_error_q95_eV_per_A),
            interval_text(part.energy_mae_meV_per_atom),
            _goal(audit.energy_goal_meV_per_atom),
            *([interval_text(part.stress_mae_GPa)] if stressed else []),
            str(part.finding),
        ]
        for number, audit, part in parts
    ]


def interval_text(of: Interval | None) -> str:
    """An error with its interval, or a dash."""
    if of is None:
        return "–"
    return f"{significant(of.value)} ({significant(of.low)}–{significant(of.high)})"


def _with_second(part: Audited) -> str:
    """The prediction-powered error, with the frames behind it."""
    second = part.second_opinion
    if second is None:
        return "–"
    if second.forces_mae_meV_per_A is None:
        return f"does not count: {second.reason}"
    failed = f", {second.failed} failed" if second.failed else ""
    return f"{interval_text(second.forces_mae_meV_per_A)}; {second.frames} frames{failed}"


def _goal(value: float | None) -> str:
    return "not asked for" if value is None else f"{value:g}"


def signal_name(signal: SignalReport) -> str:
    """Name of a signal as people read it."""
    return "expected error" if signal.name == "error" else signal.name.replace("_", " ")


def _index_words(signal: SignalReport) -> str:
    name = signal_name(signal)
    return "the expected error" if signal.name == "error" else f"the expected error by {name}"


def signal_text(report: SystemReport) -> str:
    """Which signal decides, and which are blind; empty where the last generation has no reports."""
    signals = report.last.signals
    deciding = next((signal for signal in signals if signal.decides), None)
    if not signals:
        return ""
    if deciding is None:
        text = "No signal decides: none of those that were watched does better than chance."
    elif deciding.blind:
        text = (
            f"The index counts by {_index_words(deciding)}, which is blind: it tells bad atoms "
            "from good ones no better than chance. That the dynamics are calm means nothing then; "
            "the audit alone says whether the model is right."
        )
    else:
        text = f"The index counts by {_index_words(deciding)}."
    blind = [signal_name(s) for s in signals if s.blind and s is not deciding]
    if blind:
        verb = "is" if len(blind) == 1 else "are"
        text += f" Blind, no better than chance, {verb} {listed(blind)}."
    fewest = min(signal.bad_atoms for signal in signals)
    if fewest < FEW_BAD_ATOMS:
        text += f" The audit frames have {count(fewest, 'bad atom')}: these numbers rest on little."
    return text


def signal_rows(generations: Sequence[Generation]) -> list[list[str]]:
    """How well each signal told bad forces from good ones, by generation; heading first."""
    heading = [
        "Generation",
        "Signal",
        "AUROC (95 % interval)",
        "Bad atoms flagged (95 % interval), %",
        "False alarms (95 % interval), %",
        "Bad atoms",
        "Atoms",
        "In words",
    ]
    return [heading] + [
        [
            str(g.number),
            signal_name(signal),
            _estimate(signal.auroc),
            _estimate(signal.flagged, scale=100),
            _estimate(signal.false_alarms, scale=100),
            str(signal.bad_atoms),
            str(signal.atoms),
            _in_words(signal),
        ]
        for g in generations
        for signal in g.signals
    ]


def _estimate(of: Estimate, *, scale: float = 1.0) -> str:
    return "too few atoms" if of.value is None else estimate_text(of, scale=scale)


def _in_words(signal: SignalReport) -> str:
    if signal.blind:
        words = "blind"
    elif signal.auroc.value is None:
        words = "not enough data to tell"
    else:
        words = "sees errors"
    return f"{words}; decides" if signal.decides else words
