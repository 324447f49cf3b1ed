"""The teacher's frames, and the drift of latent features between training and held-out frames.

Not for: making the teacher's frames (`teacher.sampling`), or measuring drift (`models.drift`).
"""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from halcyon.models.drift import ClassDrift
from halcyon.report import SystemReport
from halcyon.report.page.axes import Figure, Trace, colours_of, faint, gradient, rounded, titled
from halcyon.teacher.sampling import ORIGINS

BINS = 40
MEASURES = {
    "shift": (
        "Shift of latent features",
        "Distance between the mean features of held-out and of training frames, for each class of "
        "atoms, in standard deviations of the training frames per axis; 0: no shift.",
        "shift, standard deviations",
    ),
    "kurtosis_new": (
        "Gaussianity of latent features",
        "Mardia's kurtosis of the features of held-out frames, for each class of atoms, divided by "
        "its value for a Gaussian. 1: Gaussian; above 1: heavy tails; below 1: several clusters.",
        "kurtosis, relative",
    ),
}


def teacher_figures(report: SystemReport) -> list[Figure]:
    """Energies and largest forces of the teacher's frames by origin, for each structure."""
    figures = []
    for name in dict.fromkeys(frame.info["structure"] for frame in report.teacher_frames):
        frames = [frame for frame in report.teacher_frames if frame.info["structure"] == name]
        figures += [
            _histogram(
                f"teacher-energy-{name}",
                f"{name}: energies",
                frames,
                energies(frames),
                "energy above the lowest, eV/atom",
            ),
            _histogram(
                f"teacher-force-{name}",
                f"{name}: forces",
                frames,
                largest_forces(frames),
                "largest force on an atom, eV/Å",
            ),
        ]
    return figures


def energies(frames: Sequence[Atoms]) -> np.ndarray:
    """Energies above the lowest of them, eV/atom, shape (F,)."""
    per_atom = np.array([frame.info["energy"] / len(frame) for frame in frames])
    above: np.ndarray = per_atom - per_atom.min()
    return above


def largest_forces(frames: Sequence[Atoms]) -> np.ndarray:
    """Largest force on any atom of each frame, eV/Å, shape (F,)."""
    return np.array([np.linalg.norm(f.arrays["forces"], axis=1).max() for f in frames])


def _histogram(
    place: str, title: str, frames: Sequence[Atoms], values: np.ndarray, axis: str
) -> Figure:
    """Counts in bins of equal logarithmic width: values span thermal motion to the force cap."""
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (0.5, 1.0)
    edges = np.geomspace(low, high * (1 + 1e-9), BINS + 1)
    data, medians, key = [], [], {}
    origins = np.array([frame.info["origin"] for frame in frames])
    for number, origin in enumerate(ORIGINS):
        chosen = values[origins == origin]
        if not len(chosen):
            continue
        # The lowest energy is zero by definition; it goes into the first bin.
        counts, _ = np.histogram(np.clip(chosen, edges[0], edges[-1]), edges)
        medians.append(f"{origin}: {len(chosen)} frames, median {np.median(chosen):.3g}")
        key[origin] = gradient(number, len(ORIGINS))
        starts = rounded(edges[:-1])
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": origin,
                "x": rounded(np.repeat(edges, 2)),
                # Zero has no logarithm: an empty bin lies below the axis.
                "y": [0.5, *np.repeat(np.maximum(counts, 0.5), 2).tolist(), 0.5],
                "text": ["", *np.repeat(counts, 2).astype(str).tolist(), ""],
                "counts": [[x, int(n)] for x, n in zip(starts, counts, strict=True) if n],
                "line": {"color": key[origin], "width": 1.6},
                "fill": "tozeroy",
                "fillcolor": faint(key[origin], 0.18),
                "hovertemplate": f"{origin}, near %{{x:.3g}}: %{{text}} frames<extra></extra>",
            }
        )
    return Figure(
        id=place,
        title=title,
        caption=f"Number of the teacher's frames by {axis}: {len(frames)} frames in {BINS} bins; "
        "colours are their origins.",
        alt=f"Histogram of the {axis}; {'; '.join(medians)}.",
        data=data,
        x=titled(axis, type="log", exponentformat="none", dtick=1),
        y=titled(
            "frames",
            type="log",
            exponentformat="none",
            dtick=1,
            range=[-0.2, np.log10(len(frames))],
        ),
        key=key,
    )


def drift_figures(report: SystemReport) -> list[Figure]:
    """Drift by class of atoms, before and after fine-tuning; empty where it was not measured."""
    if not any(g.drift for g in report.generations):
        return []
    return [_drift(report, measure) for measure in MEASURES]


def _drift(report: SystemReport, measure: str) -> Figure:
    title, caption, axis = MEASURES[measure]
    colours, data = colours_of(report), []
    medians = []
    for g in report.generations:
        for word in ("before", "after"):
            drift: dict[str, ClassDrift] = (getattr(g.drift, word) if g.drift else None) or {}
            classes = [name for name in drift if getattr(drift[name], measure) is not None]
            if not classes:
                continue
            values = [getattr(drift[name], measure) for name in classes]
            medians.append(f"generation {g.number} {word}: median {np.median(values):.3g}")
            data.append(
                _dots(
                    number=g.number,
                    word=word,
                    classes=classes,
                    values=rounded(values),
                    customdata=[[drift[name].atoms, drift[name].axes] for name in classes],
                    colour=colours[g.number],
                )
            )
    return Figure(
        id=f"drift-{measure.removesuffix('_new')}",
        title=title,
        caption=f"{caption} Hollow: the model before fine-tuning (for generation 0 the pre-trained "
        "one); filled: after it.",
        alt=f"{title} by class of atoms; {'; '.join(medians)}.",
        data=data,
        x=titled("class of atoms", type="category"),
        y=titled(axis, rangemode="tozero"),
    )


def _dots(
    *,
    number: int,
    word: str,
    classes: list[str],
    values: list[float | None],
    customdata: list[list[int]],
    colour: str,
) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": number,
        "name": f"generation {number}, {word}",
        "x": classes,
        "y": values,
        "customdata": customdata,
        "marker": {
            "size": 9,
            "symbol": "circle-open" if word == "before" else "circle",
            "color": colour,
            "line": {"width": 1.6},
        },
        "hovertemplate": f"generation {number}, {word} fine-tuning, %{{x}}: %{{y:.3g}}"
        "<br>%{customdata[0]} atoms, %{customdata[1]} axes<extra></extra>",
    }
