"""What the models learned: errors and λ against labels, parity, curves of training.

Not for: measuring errors (`models.mace`), or making parity tables (`models.parity`).
"""

from typing import Any

import numpy as np
from ase.data import chemical_symbols

from halcyon.report import Generation, SystemReport
from halcyon.report.page.axes import (
    CONFIDENCE,
    NEUTRAL,
    PRETRAINING,
    Figure,
    Trace,
    cloud_points,
    colours_of,
    rounded,
    titled,
)
from halcyon.report.page.instability import fraction_words
from halcyon.wording import number_text

MAX_CLOUD = 12_000
"""Points of one parity plot, all generations together."""
DRAWS = 2_000
"""Draws of the bootstrap."""
QUANTITIES = {
    "force": ("Forces", "eV/Å"),
    "energy": ("Energies", "eV/atom"),
    "stress": ("Stresses", "GPa"),
}
MEANINGS = {
    "force": "a component of the force on an atom of a test frame",
    "energy": "the energy of a test frame, relative to the mean label of its composition",
    "stress": "one of the six numbers of the stress of a test frame (positive: tension)",
}
METRICS = {
    "force": ("forces_mae_meV_per_A", "forces_mae", "force MAE, meV/Å"),
    "energy": ("energy_mae_meV_per_atom", "energy_mae", "energy MAE, meV/atom"),
}
FITTED = {
    "training-loss": ("loss", "Loss", "training loss"),
    "training-forces": ("forces_mae_meV_per_A", "Forces", "validation force MAE, meV/Å"),
    "training-energy": ("energy_mae_meV_per_atom", "Energies", "validation energy MAE, meV/atom"),
}


def learning_figures(report: SystemReport) -> list[Figure]:
    """Errors and λ against the number of training labels."""
    return [
        _against_labels(report, "force"),
        _against_labels(report, "energy"),
        _rate_against_labels(report),
    ]


def training_figures(report: SystemReport) -> list[Figure]:
    """Loss and validation errors, epoch by epoch."""
    return [_training(report, name) for name in FITTED]


def parity_figures(report: SystemReport) -> list[Figure]:
    """Predictions against labels of the test set; empty where no generation has parity tables."""
    if not any(g.parity for g in report.generations):
        return []
    return [
        _parity(report, quantity)
        for quantity in QUANTITIES
        if any(quantity in g.parity for g in report.generations if g.parity)
    ]


def error_interval(table: dict[str, np.ndarray] | None, *, seed: int) -> tuple[float, float] | None:
    """95 % interval of a mean absolute error, by a bootstrap over frames.

    Args:
        table: parity table of one quantity, see `parity.read`.
        seed: random seed of the draws.

    Returns:
        Lower and upper end in the table's unit; None where the table does not name the frames, or
        there are fewer than 2.
    """
    if table is None or "frame" not in table:
        return None
    frames, place = np.unique(table["frame"], return_inverse=True)
    if len(frames) < 2:
        return None
    off = np.abs(table["predicted"].astype(float) - table["reference"])
    sums, counts = np.bincount(place, off), np.bincount(place)
    drawn = np.random.default_rng(seed).integers(len(frames), size=(DRAWS, len(frames)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def interval_of(report: SystemReport, g: Generation, quantity: str) -> tuple[float, float] | None:
    """95 % interval of a generation's mean absolute test error, meV/Å or meV/atom."""
    interval = error_interval((g.parity or {}).get(quantity), seed=report.seed)
    return None if interval is None else (interval[0] * 1000, interval[1] * 1000)


def _points(report: SystemReport, y: list[float | None], **more: Any) -> Trace:
    """A point for each generation at its number of training labels, with its number beside it."""
    colours, numbers = colours_of(report), [g.number for g in report.generations]
    every = -(-len(numbers) // 10)
    return {
        "type": "scatter",
        "mode": "lines+markers+text",
        "name": "generations",
        "x": [g.learned["train"] for g in report.generations],
        "y": y,
        "text": ["" if number % every else str(number) for number in numbers],
        "textposition": "top center",
        "cliponaxis": False,
        "line": {"color": NEUTRAL, "width": 1.2},
        "marker": {"size": 9, "color": [colours[number] for number in numbers]},
    } | more


def _against_labels(report: SystemReport, quantity: str) -> Figure:
    _, attribute, title = METRICS[quantity]
    values = [getattr(g, attribute) for g in report.generations]
    intervals = [interval_of(report, g, quantity) for g in report.generations]
    sure = [(v, v) if each is None else each for v, each in zip(values, intervals, strict=True)]
    texts = [
        f"{number_text(value)}" + (f" ({each[0]:.3g} to {each[1]:.3g})" if each else "")
        for value, each in zip(values, intervals, strict=True)
    ]
    known = any(each is not None for each in intervals)
    interval = (
        f" Bars: 95 % interval, bootstrap over test frames ({DRAWS:,} draws, seed {report.seed})."
        if known
        else ""
    )
    trace = _points(
        report,
        rounded(values),
        customdata=[[g.number, text] for g, text in zip(report.generations, texts, strict=True)],
        error_y={
            "type": "data",
            "symmetric": False,
            # The interval is of the points in the parity table and may not contain the value.
            "array": rounded(max(0.0, high - v) for v, (_, high) in zip(values, sure, strict=True)),
            "arrayminus": rounded(
                max(0.0, v - low) for v, (low, _) in zip(values, sure, strict=True)
            ),
            "color": NEUTRAL,
            "visible": known,
        },
        hovertemplate="generation %{customdata[0]}: %{x} training labels<br>%{customdata[1]}"
        "<extra></extra>",
    )
    return Figure(
        id="learning" if quantity == "force" else "learning-energy",
        title=f"{QUANTITIES[quantity][0]}: error against labels",
        caption="Mean absolute error (MAE) on the test set, which no model is trained on, against "
        f"the number of training labels; numbers are generations.{interval}",
        alt=f"Test {title} against training labels, by generation: {', '.join(texts)}.",
        data=[trace],
        x=titled("training labels", rangemode="tozero"),
        y=titled(f"test {title}", rangemode="tozero"),
    )


def _rate_against_labels(report: SystemReport) -> Figure:
    rates = [g.late_rate() for g in report.generations]
    trace = _points(
        report,
        [None if rate is None else rounded([rate])[0] for rate in rates],
        customdata=[g.number for g in report.generations],
        hovertemplate="generation %{customdata}: %{x} training labels<br>λ = %{y:.3g}"
        "<extra></extra>",
    )
    return Figure(
        id="learning-rate",
        title="λ against labels",
        caption=f"λ, {fraction_words(report)}, in the late window, against the number of training "
        "labels: mean over the replicas that reached the end. The figure “λ by temperature” shows "
        "their spread.",
        alt=f"λ against training labels, by generation: {', '.join(map(number_text, rates))}.",
        data=[trace],
        x=titled("training labels", rangemode="tozero"),
        y=titled("λ in the late window", rangemode="tozero"),
    )


def _parity(report: SystemReport, quantity: str) -> Figure:
    name, unit = QUANTITIES[quantity]
    colours, data, errors = colours_of(report), [], []
    tables = {
        g.number: g.parity[quantity]
        for g in report.generations
        if g.parity and quantity in g.parity
    }
    most = MAX_CLOUD // len(tables)
    points = drawn = 0
    ends = [np.inf, -np.inf]
    for number, table in tables.items():
        off = table["predicted"].astype(float) - table["reference"]
        kept = cloud_points(off, most)
        points, drawn = points + len(off), drawn + len(kept)
        for column in ("reference", "predicted"):
            ends = [min(ends[0], table[column].min()), max(ends[1], table[column].max())]
        scale, prefix = (1, "") if quantity == "stress" else (1000, "m")
        errors.append(f"generation {number}: {scale * np.abs(off).mean():.3g} {prefix}{unit}")
        elements = [chemical_symbols[z] if z else "" for z in table["element"][kept]]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "meta": number,
                "name": f"generation {number}",
                "visible": number == max(tables),
                "x": rounded(table["reference"][kept]),
                "y": rounded(table["predicted"][kept]),
                "text": elements if quantity == "force" else [],
                "marker": {"size": 4, "color": colours[number], "opacity": 0.55},
                "hovertemplate": f"generation {number} %{{text}}<br>label %{{x:.4g}} {unit}, model "
                f"%{{y:.4g}} {unit}<extra></extra>",
            }
        )
    low, high = float(ends[0]), float(ends[1])
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "equal",
            "x": [low, high],
            "y": [low, high],
            "hoverinfo": "skip",
            "line": {"color": NEUTRAL, "width": 1, "dash": "dash"},
        }
    )
    return Figure(
        id=f"parity-{quantity}",
        title=f"{name}: model against label",
        caption=f"Each point is {MEANINGS[quantity]}, in {unit}. On the dashed line model and "
        "label agree.",
        alt=f"Predicted against reference values; mean absolute difference of {'; '.join(errors)}.",
        data=data,
        x=titled(f"label, {unit}"),
        y=titled(f"model, {unit}"),
        thinned=(points, drawn),
    )


def _training(report: SystemReport, name: str) -> Figure:
    """A quantity against the epoch; a dot marks the epoch whose weights were kept."""
    quantity, title, axis = FITTED[name]
    colours = colours_of(report)
    curves = [(g.number, g.curve, f"generation {g.number}") for g in report.generations]
    if report.pretraining:
        curves.append((PRETRAINING, report.pretraining, "pre-training"))
    best = {g.number: g.best_epoch for g in report.generations}
    longest = max((entry.epoch for _, curve, _ in curves for entry in curve), default=1)
    every = [getattr(entry, quantity) for _, curve, _ in curves for entry in curve]
    values = [value for value in every if value > 0]
    decades = np.log10(max(values) / min(values)) if values else 0.0
    data: list[Trace] = []
    for number, curve, who in curves:
        sizes = [9 if entry.epoch == best.get(number) else 0 for entry in curve]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "meta": number,
                "name": who,
                "x": [entry.epoch for entry in curve],
                "y": rounded(getattr(entry, quantity) for entry in curve),
                "line": {
                    "color": colours[number],
                    "width": 1.6,
                    "dash": "dot" if number == PRETRAINING else "solid",
                },
                "marker": {"size": sizes, "opacity": 1, "line": {"width": 0}},
                "hovertemplate": f"{who}, epoch %{{x}}: %{{y:.4g}}<extra></extra>",
            }
        )
    lasts = [
        f"{who} {number_text(getattr(curve[-1], quantity))}" for _, curve, who in curves if curve
    ]
    return Figure(
        id=name,
        title=f"Training: {title.lower()}",
        caption=f"{axis[0].upper()}{axis[1:]}, after each epoch, on a logarithmic scale; a dot "
        "marks the epoch whose weights were kept.",
        alt=f"{axis[0].upper()}{axis[1:]} against epoch; at the end: {', '.join(lasts)}.",
        data=data,
        x=titled("epoch", rangemode="tozero", **({"dtick": 1} if longest <= 10 else {})),
        y=titled(
            axis,
            type="log",
            **({"dtick": "D2", "tickformat": "~g"} if 0.7 < decades < 3 else {}),
        ),
    )
