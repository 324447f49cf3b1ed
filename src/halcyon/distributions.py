"""What the teacher teaches, at a glance: energies and forces of its frames, by origin.

    files.write_text("distributions.html", page(frames))

Not for: the campaign's report (`page`).
"""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from halcyon.sampling import ORIGINS

COLOURS = ("#3b6fd4", "#14a5a5", "#4ea046", "#c48a18", "#d45438")
"""Of the origins, in their order."""
BINS = 60


def page(frames: Sequence[Atoms]) -> str:
    """An HTML page with two histograms for each structure; it loads nothing.

    Args:
        frames: labelled, with `info` structure, origin and energy (eV), and
            `arrays["forces"]` (eV/Å).
    """
    from plotly.graph_objects import Figure, Histogram
    from plotly.subplots import make_subplots

    names = list(dict.fromkeys(frame.info["structure"] for frame in frames))
    axes = ("energy above the least, eV per atom", "largest force on an atom, eV/Å")
    figure: Figure = make_subplots(
        rows=max(1, len(names)),
        cols=len(axes),
        subplot_titles=[f"{name}: {axis}" for name in names for axis in axes],
    )
    for row, name in enumerate(names, start=1):
        mine = [frame for frame in frames if frame.info["structure"] == name]
        for column, values in enumerate((energies(mine), largest_forces(mine)), start=1):
            edges = np.linspace(0.0, max(float(values.max()), 1e-6), BINS + 1)
            for origin, colour in zip(ORIGINS, COLOURS, strict=True):
                chosen = [f.info["origin"] == origin for f in mine]
                if any(chosen):
                    figure.add_trace(
                        Histogram(
                            x=values[chosen],
                            xbins={"start": 0.0, "end": edges[-1], "size": edges[1]},
                            name=origin,
                            legendgroup=origin,
                            showlegend=row == 1 and column == 1,
                            marker_color=colour,
                        ),
                        row=row,
                        col=column,
                    )
    figure.update_yaxes(type="log", title="frames")
    figure.update_layout(
        barmode="stack",
        title="What the teacher teaches: frames by origin",
        height=120 + 300 * max(1, len(names)),
        template="plotly_white",
    )
    html: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return html


def energies(frames: Sequence[Atoms]) -> np.ndarray:
    """Energies above the least of them, eV per atom, shape (F,)."""
    per_atom = np.array([frame.info["energy"] / len(frame) for frame in frames])
    above: np.ndarray = per_atom - per_atom.min()
    return above


def largest_forces(frames: Sequence[Atoms]) -> np.ndarray:
    """Largest force on any atom of each frame, eV/Å, shape (F,)."""
    return np.array([np.linalg.norm(f.arrays["forces"], axis=1).max() for f in frames])
