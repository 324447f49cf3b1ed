"""The page's tables: rows of text, the heading first.

Not for: the table of generations (`halcyon.report.summary`).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from halcyon.domain.intervals import Domain
from halcyon.domain.margins import Exceedance
from halcyon.report import Generation, LabelCost, StageTime, SystemReport
from halcyon.report.page.learning import interval_of
from halcyon.wording import duration, number_text


def replica_rows(generation: Generation) -> list[list[str]]:
    """How each replica of a generation ended."""
    index = generation.deciding
    other = "label" if index == "error" else "guard"
    heading = [
        "Replica",
        "Structure",
        "Temperature, K",
        "Simulated time, ps",
        "Mean Λ, ps",
        "Largest atomic Λ, ps",
        f"Mean Λ of the {other} domain, ps",
        "Excursions of all atoms",
        "Start",
        "Failure",
    ]
    columns = (f"cli_{index}", f"cli_{index}_max", f"cli_{other}", f"excursions_{index}")
    final = {column: generation.final(column) for column in columns}
    return [heading] + [
        [
            str(entry.replica),
            entry.structure,
            f"{entry.temperature_K:g}",
            f"{entry.time_ps:.4g}",
            *(number_text(final[column].get(entry.replica)) for column in columns),
            f"replaced a failed one at {entry.began_ps:.4g} ps"
            if entry.replaces
            else "with the run",
            entry.failure or "none",
        ]
        for entry in generation.replicas
    ]


def teacher_rows(teacher: dict[str, dict[str, int]]) -> list[list[str]]:
    """How many of the teacher's frames were kept, by origin, and dropped, by reason."""
    words = {
        "md": "Kept: molecular dynamics",
        "displaced": "Kept: displaced atoms",
        "stretched": "Kept: stretched bonds",
        "contact": "Kept: close contacts",
        "dissociated": "Kept: bonds pulled apart",
        "force_cap": "Dropped: force above the cap",
        "not_finite": "Dropped: values not finite",
        "too_large": "Dropped: larger than the box, or apart",
        "duplicate": "Dropped: like an earlier frame",
    }
    counted = {name for counts in teacher.values() for name in counts}
    names = [name for name in words if name in counted] + sorted(counted - words.keys())
    return [["Structure", *(words.get(name, name) for name in names)]] + [
        [structure, *(str(counts.get(name, 0)) for name in names)]
        for structure, counts in teacher.items()
    ]


def fate_rows(generations: Sequence[Generation]) -> list[list[str]]:
    """Candidates of each generation by what became of them."""
    fates = list(dict.fromkeys(["selected", *(fate for g in generations for fate in g.fates)]))
    return [["Generation", "Candidates", *(fate.capitalize() for fate in fates)]] + [
        [str(g.number), str(g.candidates), *(str(g.fates.get(fate, 0)) for fate in fates)]
        for g in generations
    ]


def margin_rows(generations: Sequence[Generation]) -> list[list[str]]:
    """The margin of each generation's label domain, and how well it works on test frames."""
    heading = [
        "Generation",
        "Margin, widths (90 % interval)",
        "Method",
        "Allowed fraction outside",
        "Atomic energies it rests on",
        "Test atoms outside without margin (95 % interval)",
        "Test atoms outside with margin (95 % interval)",
        "Mean width of label domain, eV",
        "Mean width of guard domain, eV",
    ]
    rows = [heading]
    for g in generations:
        margin, report = g.domain.margin, g.domain.report
        rows.append(
            [
                str(g.number),
                f"{margin.value:.3g} ({margin.low:.3g}–{margin.high:.3g})",
                margin.method,
                f"{margin.alpha:.2g}",
                str(margin.n),
                _exceedance(report.exceedance_bare),
                _exceedance(report.exceedance_with_margin),
                f"{report.mean_width_label_eV:.3g}",
                f"{report.mean_width_guard_eV:.3g}",
            ]
        )
    return rows


def _exceedance(measured: Exceedance | None) -> str:
    if measured is None:
        return "–"
    fraction, low, high = (
        f"{value * 100:.2f}" for value in (measured.fraction, measured.low, measured.high)
    )
    return f"{fraction} % ({low}–{high} %)"


def class_rows(domain: Domain) -> list[list[str]]:
    """Domain of each class of atoms."""
    heading = [
        "Class of atoms",
        "Atoms in a frame",
        "Training values",
        "Label domain, eV",
        "Width of the label domain, eV",
        "Guard domain, eV",
        "Width of the guard domain, eV",
    ]
    atoms = Counter(name for names in domain.classes.values() for name in names)
    values = domain.report.training_frames_values
    rows = [heading]
    for name, (low, high) in domain.label.items():
        least, most = domain.guard[name]
        rows.append(
            [
                name,
                str(atoms[name] or "–"),  # environments change from frame to frame
                str(values.get(name, "–")),
                f"{low:.3f} to {high:.3f}",
                f"{high - low:.3f}",
                f"{least:.3f} to {most:.3f}",
                f"{most - least:.3f}",
            ]
        )
    return rows


def expected_rows(domain: Domain) -> list[list[str]]:
    """Limits of the signals that decide, of each class of atoms; the heading alone without any."""
    heading = [
        "Class of atoms",
        "Signal",
        "Pairs it rests on",
        "Whose pairs",
        "Distance beyond which an atom is unreliable",
        "Beyond the greatest distance seen, by a factor of",
    ]
    expected = domain.expected
    if expected is None:
        return [heading]
    curves = [(n, s, curve) for s, of in expected.curves.items() for n, curve in of.items()]
    if expected.combined:
        curves.append(("all", "combination, eV/Å", expected.combined))
    return [heading] + [
        [
            name,
            signal.replace("_", " "),
            str(curve.pairs),
            curve.source,
            number_text(curve.limit),
            number_text(curve.extrapolated) if curve.extrapolated > 1 else "–",
        ]
        for name, signal, curve in curves
    ]


def time_rows(stages: Sequence[StageTime]) -> list[list[str]]:
    """Jobs and time of each stage, and of all stages."""
    total = StageTime(
        stage="all",
        runs=sum(s.runs for s in stages),
        seconds=sum(s.seconds for s in stages),
        core_seconds=sum(s.core_seconds for s in stages),
    )
    return [["Stage", "Jobs", "Wall time", "Core time", "Share of core time"]] + [
        [
            s.stage,
            str(s.runs),
            duration(s.seconds),
            duration(s.core_seconds),
            f"{s.core_seconds / (total.core_seconds or 1) * 100:.0f} %",
        ]
        for s in (*stages, total)
    ]


def cost_rows(costs: Sequence[LabelCost]) -> list[list[str]]:
    """Core time of label calculations, by batch and per calculation."""
    total = LabelCost(
        batch="all",
        labels=sum(c.labels for c in costs),
        without=sum(c.without for c in costs),
        core_seconds=sum(c.core_seconds for c in costs),
    )
    return [
        ["Batch", "Labels", "Without label", "Core time, s", "Core time per calculation, s"]
    ] + [
        [
            c.batch,
            str(c.labels),
            str(c.without),
            number_text(c.core_seconds),
            number_text(c.core_seconds / n if (n := c.labels + c.without) else None),
        ]
        for c in (*costs, total)
    ]


def error_rows(report: SystemReport) -> list[list[str]]:
    """Errors on the test set with their intervals, and the largest error in the parity table."""
    heading = [
        "Generation",
        "Test frames",
        "Force MAE, meV/Å (95 % interval)",
        "Force RMSE, meV/Å",
        "Largest force error, meV/Å",
        "Energy MAE, meV/atom (95 % interval)",
        "Energy RMSE, meV/atom",
        "Largest energy error, meV/atom",
    ]
    return [heading] + [
        [
            str(g.number),
            str(g.learned["test"]),
            *_errors(report, g, "force", g.forces_mae),
            *_errors(report, g, "energy", g.energy_mae),
        ]
        for g in report.generations
    ]


def _errors(report: SystemReport, g: Generation, quantity: str, mae: float) -> list[str]:
    text = number_text(mae)
    if interval := interval_of(report, g, quantity):
        text += f" ({interval[0]:.3g}–{interval[1]:.3g})"
    if not g.parity:
        return [text, "–", "–"]
    table = g.parity[quantity]
    off = 1000 * np.abs(table["predicted"].astype(float) - table["reference"])
    return [text, number_text(float(np.sqrt(np.mean(off**2)))), number_text(float(off.max()))]


def drift_rows(generation: Generation) -> list[list[str]]:
    """Drift of latent features of a generation, by class of atoms."""
    rows = [
        [
            "Class of atoms",
            "Held-out atoms",
            "Shift before fine-tuning, standard deviations",
            "Shift after it, standard deviations",
            "Relative kurtosis before fine-tuning",
            "Relative kurtosis after it",
            "Relative kurtosis of training frames after it",
        ]
    ]
    drift = generation.drift
    for name, after in drift.after.items() if drift else ():
        before = (drift.before or {}).get(name) if drift else None
        rows.append(
            [
                name,
                str(after.atoms),
                number_text(before.shift if before else None),
                number_text(after.shift),
                number_text(before.kurtosis_new if before else None),
                number_text(after.kurtosis_new),
                number_text(after.kurtosis_known),
            ]
        )
    return rows
