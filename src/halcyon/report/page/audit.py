"""The audit on the page: errors by generation, parity of random frames, expected and true error.

Not for: measuring errors (`verdict.audit`), or the audit's sentences and tables
(`report.audit_words`).
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from ase import Atoms

from halcyon.report import Generation, SystemReport
from halcyon.report.audit_words import place
from halcyon.report.page.axes import (
    MAX_POINTS,
    NEUTRAL,
    Figure,
    Trace,
    cloud_points,
    colours_of,
    goal_line,
    room,
    rounded,
    titled,
)
from halcyon.verdict.estimates import Interval
from halcyon.verdict.forms import Audited
from halcyon.wording import number_text

SMALLEST_EV_PER_A = 1e-3
"""Errors below it are drawn there: zero has no logarithm, and none so small matters."""
QUANTITIES = {
    "forces_mae_meV_per_A": ("audit-forces", "force MAE, meV/Å", "forces_goal_meV_per_A"),
    "energy_mae_meV_per_atom": ("audit-energy", "energy MAE, meV/atom", "energy_goal_meV_per_atom"),
}
GOOD, FLAGGED, MISSED, BAD = "good", "bad, flagged", "bad, not flagged", "bad"
LOOKS = {
    GOOD: ("#3b6fd4", "circle", 4, 0.45),
    FLAGGED: ("#c48a18", "diamond", 7, 0.9),
    MISSED: ("#d45438", "x", 8, 0.95),
    BAD: ("#d45438", "x", 8, 0.95),
}
"""Colour, symbol, size and opacity of an atom's points, by what it is."""


def figures(report: SystemReport) -> list[Figure]:
    """Errors by generation, and the last audit's atoms; empty where nothing was audited."""
    shown = [
        _by_generation(report, quantity)
        for quantity in QUANTITIES
        if any(_measured(g, quantity) for g in report.generations)
    ]
    if report.last.audit_frames:
        shown.append(_parity(report))
        expected = expected_errors(report.last.audit_frames)
        if expected is not None:
            shown.append(_expected(report, expected))
    return shown


def _measured(g: Generation, quantity: str) -> list[Audited]:
    parts = g.audit.parts if g.audit else []
    return [part for part in parts if getattr(part, quantity) is not None]


def _by_generation(report: SystemReport, quantity: str) -> Figure:
    """Errors with their intervals, a point for each structure and temperature, and the goal."""
    name, axis, goal_name = QUANTITIES[quantity]
    colours, data, summary, highs = colours_of(report), [], [], []
    goal = getattr(report.last.audit, goal_name) if report.last.audit else None
    for g in report.generations:
        parts = _measured(g, quantity)
        if not parts:
            continue
        errors = [getattr(part, quantity) for part in parts]
        highs += [error.high for error in errors]
        summary += [
            f"generation {g.number}, {place(part)}: {number_text(error.value)} "
            f"({number_text(error.low)} to {number_text(error.high)})"
            for part, error in zip(parts, errors, strict=True)
        ]
        data.append(_errors(g.number, parts, errors, colours[g.number]))
        judged = [(part, error) for part in parts if (error := _second_error(part, quantity))]
        if judged:
            highs += [error.high for _, error in judged]
            summary += [
                f"generation {g.number}, {place(part)}, with foretold errors: "
                f"{number_text(error.value)} ({number_text(error.low)} to "
                f"{number_text(error.high)})"
                for part, error in judged
            ]
            data.append(
                _errors(
                    g.number,
                    [part for part, _ in judged],
                    [error for _, error in judged],
                    colours[g.number],
                    second=True,
                )
            )
    what, of = "Energy", "energies relative to their mean"
    if quantity == "forces_mae_meV_per_A":
        what, of = "Force", "force components"
    ends = (
        f"The dashed line is the goal, {goal:g}: the upper ends must be under it."
        if goal is not None
        else "No goal was asked for."
    )
    if any(
        _second_error(part, quantity) for g in report.generations for part in _measured(g, quantity)
    ):
        ends += (
            " Diamonds: prediction-powered, with errors that are foretold of many more frames; "
            "there, their upper ends count."
        )
    return Figure(
        id=name,
        title=f"{what} error where the dynamics goes",
        caption=f"Mean absolute error (MAE) of {of} on random frames of each generation's own "
        "dynamics, with its interval (from the spread between replicas); a point for each "
        f"structure and temperature. {ends}",
        alt=f"{what} error on audit frames by generation; {'; '.join(summary)}. {ends}",
        data=data,
        x=titled("generation", dtick=1, range=[-0.6, report.last.number + 0.6]),
        y=titled(f"audit {axis}", **room([*highs, goal or 0.0])),
        layout={} if goal is None else {"shapes": [goal_line(goal)]},
    )


def _second_error(part: Audited, quantity: str) -> Interval | None:
    """The error with foretold ones; None: there are none."""
    if part.second_opinion is None or quantity != "forces_mae_meV_per_A":
        return None
    return part.second_opinion.forces_mae_meV_per_A


def _errors(
    number: int,
    parts: Sequence[Audited],
    errors: Sequence[Interval],
    colour: str,
    *,
    second: bool = False,
) -> Trace:
    """Points of a generation's errors with their intervals; diamonds with foretold errors."""
    places = np.linspace(-1, 1, len(parts) + 2)[1:-1] * 0.4 + 0.1 * second
    words = ", with foretold errors" if second else ""
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": number,
        "name": f"generation {number}{words}",
        "x": rounded(number + places),
        "y": rounded(error.value for error in errors),
        "text": [
            escape(f"generation {number}, {place(part)}, {part.frames} frames{words}")
            for part in parts
        ],
        "customdata": [[number_text(e.low), number_text(e.high)] for e in errors],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": rounded(max(0.0, e.high - e.value) for e in errors),
            "arrayminus": rounded(max(0.0, e.value - e.low) for e in errors),
            "color": colour,
            "thickness": 2,
        },
        "marker": {"size": 10, "color": colour, "symbol": "diamond-open" if second else "circle"},
        "cliponaxis": False,
        "hovertemplate": "%{text}<br>%{y:.3g} (%{customdata[0]} to %{customdata[1]})"
        "<extra></extra>",
    }


def atom_errors(frames: Sequence[Atoms]) -> np.ndarray:
    """Force error of each atom, the length of the difference, eV/Å, shape (all atoms,)."""
    return np.concatenate(
        [np.linalg.norm(f.arrays["model_forces"] - f.arrays["forces"], axis=1) for f in frames]
    )


def expected_errors(frames: Sequence[Atoms]) -> np.ndarray | None:
    """Expected force error of each atom, eV/Å, shape (all atoms,); None: not all frames have it."""
    if not all("expected_error" in frame.arrays for frame in frames):
        return None
    return np.concatenate([frame.arrays["expected_error"] for frame in frames]).astype(float)


def kinds(report: SystemReport, frames: Sequence[Atoms]) -> np.ndarray:
    """What each atom of the frames is: a key of `LOOKS`, shape (all atoms,)."""
    tolerance = report.tolerance_eV_per_A
    bad, expected = atom_errors(frames) > tolerance, expected_errors(frames)
    if expected is None:
        return np.where(bad, BAD, GOOD)
    return np.where(bad, np.where(expected > tolerance, FLAGGED, MISSED), GOOD)


def _names(frames: Sequence[Atoms]) -> np.ndarray:
    """Where each atom is from, shape (all atoms,)."""
    return np.array(
        [
            f"{symbol}{i} of {f.info.get('structure', '')}, replica {f.info.get('replica', '–')}, "
            f"{f.info.get('time', float('nan')):.3g} ps"
            for f in frames
            for i, symbol in enumerate(f.get_chemical_symbols())
        ]
    )


def _parity(report: SystemReport) -> Figure:
    """Force components of the last generation's audit frames: reference against model."""
    frames, tolerance = report.last.audit_frames, report.tolerance_eV_per_A
    reference = np.concatenate([frame.arrays["forces"] for frame in frames])
    model = np.concatenate([frame.arrays["model_forces"] for frame in frames])
    of_atoms, names = kinds(report, frames), _names(frames)
    kept = cloud_points(np.abs(model - reference).max(axis=1), MAX_POINTS // 3)
    data = [
        _cloud(
            kind,
            reference[chosen].ravel(),
            model[chosen].ravel(),
            np.repeat(names[chosen], 3),
            "reference %{x:.4g} eV/Å, model %{y:.4g} eV/Å",
        )
        for kind in LOOKS
        if len(chosen := kept[of_atoms[kept] == kind])
    ]
    low, high = (float(end([reference, model])) for end in (np.min, np.max))
    data.append(_line([low, high], [low, high], "equal"))
    counts = {kind: int((of_atoms == kind).sum()) for kind in LOOKS}
    numbers = ", ".join(f"{number:,} {kind}" for kind, number in counts.items() if number)
    return Figure(
        id="audit-parity",
        title=f"Forces on random frames of generation {report.last.number}",
        caption="Each point is a component of the force on an atom of an audit frame, as the model "
        "that visited the frame predicted it, against the reference. An atom is bad if its force "
        f"is wrong by more than {tolerance:g} eV/Å; it is flagged if more than that was expected. "
        f"Atoms: {numbers}.",
        alt=f"Predicted against reference force components of {len(frames)} audit frames; atoms: "
        f"{numbers}.",
        data=data,
        x=titled("reference, eV/Å"),
        y=titled("model, eV/Å"),
        thinned=(3 * len(model), 3 * len(kept)),
        key={kind: LOOKS[kind][0] for kind, number in counts.items() if number},
    )


def _expected(report: SystemReport, expected: np.ndarray) -> Figure:
    """True error of each atom of the last audit frames against what was expected."""
    frames, tolerance = report.last.audit_frames, report.tolerance_eV_per_A
    errors = atom_errors(frames)
    of_atoms, names = kinds(report, frames), _names(frames)
    kept = cloud_points(errors, MAX_POINTS // 3)
    x, y = (np.maximum(values, SMALLEST_EV_PER_A) for values in (expected, errors))
    data = [
        _cloud(
            kind, x[chosen], y[chosen], names[chosen], "expected %{x:.3g} eV/Å, true %{y:.3g} eV/Å"
        )
        for kind in LOOKS
        if len(chosen := kept[of_atoms[kept] == kind])
    ]
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    data.append(_line([low, high], [low, high], "equal"))
    bad = errors > tolerance
    numbers = (
        f"{int((bad & (expected > tolerance)).sum())} of {int(bad.sum())} bad atoms were flagged, "
        f"and {int((~bad & (expected > tolerance)).sum())} of {int((~bad).sum()):,} good ones"
    )
    limits = [np.log10(low) - 0.1, np.log10(high) + 0.1]
    log = {"type": "log", "exponentformat": "none", "dtick": 1, "range": limits}
    return Figure(
        id="audit-expected",
        title="Was the error expected?",
        caption="Each point is an atom of an audit frame: how wrong its force is, against how "
        "wrong the index expected it to be. On the dashed line both agree; the grey lines are the "
        f"tolerance, {tolerance:g} eV/Å. {numbers}.",
        alt=f"True against expected force error of {len(errors):,} atoms; {numbers}.",
        data=data,
        x=titled("expected force error, eV/Å", **log),
        y=titled("true force error, eV/Å", **log),
        layout={"shapes": _cross(tolerance)},
        thinned=(len(errors), len(kept)),
        key={kind: LOOKS[kind][0] for kind in LOOKS if (of_atoms == kind).any()},
    )


def _cross(at: float) -> list[dict[str, Any]]:
    """A vertical and a horizontal line."""
    line = {"type": "line", "line": {"color": NEUTRAL, "width": 1}, "layer": "below"}
    return [
        line | {"x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1},
        line | {"y0": at, "y1": at, "xref": "paper", "x0": 0, "x1": 1},
    ]


def _cloud(kind: str, x: np.ndarray, y: np.ndarray, names: np.ndarray, pattern: str) -> Trace:
    colour, symbol, size, opacity = LOOKS[kind]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": kind,
        "x": rounded(x),
        "y": rounded(y),
        "text": [escape(name) for name in names],
        "marker": {"color": colour, "symbol": symbol, "size": size, "opacity": opacity},
        "hovertemplate": f"{kind}: %{{text}}<br>{pattern}<extra></extra>",
    }


def _line(x: list[float], y: list[float], name: str) -> Trace:
    line = {"color": NEUTRAL, "width": 1, "dash": "dash"}
    shared = {"type": "scatter", "mode": "lines", "hoverinfo": "skip"}
    return shared | {"name": name, "x": x, "y": y, "line": line}
