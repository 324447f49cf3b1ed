"""What all figures of the page share: their form, the generations' colours, thinning.

Traces of one generation carry its number in `meta`: the page's legends show and hide them by it.

Not for: a single figure (see its module), or its place on the page (see the templates).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from halcyon.report import SystemReport

MAX_POINTS = 20_000
"""Points drawn in a figure; of more, some are left out, so that the page stays quick."""
COLOURS = (
    (59, 111, 212),
    (20, 150, 165),
    (78, 160, 70),
    (196, 138, 24),
    (212, 84, 56),
    (178, 70, 156),
)
"""Red, green, blue of the generations, first to last; each can be read on white and on black."""
NEUTRAL = "#8a8f98"
PRETRAINING = -1
"""Stands for pre-training where a generation's number is expected."""
CONFIDENCE = 0.95

Trace = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with its texts.

    Attributes:
        id: id of its place on the page.
        title: heading.
        caption: what it shows and how to read it; understandable without other text.
        alt: what it shows, for those who cannot see it.
        data: traces, as Plotly reads them.
        x: horizontal axis, as Plotly reads it.
        y: vertical axis, as Plotly reads it.
        layout: further entries of Plotly's layout.
        thinned: number of points, and number of points drawn; None where thinning does not apply.
        key: colour by name, where colours do not stand for generations.
    """

    id: str
    title: str
    caption: str
    alt: str
    data: list[Trace]
    x: dict[str, Any]
    y: dict[str, Any]
    layout: dict[str, Any] = field(default_factory=dict)
    thinned: tuple[int, int] | None = None
    key: dict[str, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """How many points are not drawn, in a sentence; empty where all are drawn."""
        if self.thinned is None or self.thinned[0] <= self.thinned[1]:
            return ""
        points, drawn = self.thinned
        return f"{drawn:,} of {points:,} points are drawn, chosen so that the curves look the same."

    def plotly(self) -> dict[str, Any]:
        """Data and layout, as Plotly reads them."""
        axis = {
            "zeroline": False,
            "showline": True,
            "ticks": "outside",
            "automargin": True,
            "exponentformat": "power",
        }
        return {
            "data": self.data,
            "layout": {
                "xaxis": axis | self.x,
                "yaxis": axis | self.y,
                "showlegend": False,
                "hovermode": "closest",
                "margin": {"l": 56, "r": 10, "t": 10, "b": 44},
                "paper_bgcolor": "rgba(0,0,0,0)",
                "plot_bgcolor": "rgba(0,0,0,0)",
            }
            | self.layout,
        }


def titled(text: str, **more: Any) -> dict[str, Any]:
    """An axis with its title."""
    return {"title": {"text": text}} | more


def room(values: Iterable[float]) -> dict[str, Any]:
    """Range of an axis from zero to somewhat beyond the greatest value."""
    most = max(values, default=0.0)
    return {"range": [0, 1.08 * most]} if most > 0 else {"rangemode": "tozero"}


def goal_line(height: float) -> dict[str, Any]:
    """A dashed line across a figure."""
    line = {"color": NEUTRAL, "dash": "dash", "width": 1.5}
    ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": height, "y1": height}
    return {"type": "line", "line": line} | ends


def gradient(number: int, of: int) -> str:
    """Colour number `number` of `of` colours, as `#rrggbb`."""
    place = number / max(1, of - 1) * (len(COLOURS) - 1)
    red, green, blue = (
        round(np.interp(place, range(len(COLOURS)), channel))
        for channel in zip(*COLOURS, strict=True)
    )
    return f"#{red:02x}{green:02x}{blue:02x}"


def faint(colour: str, opacity: float) -> str:
    """A colour `#rrggbb` made transparent."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def colours_of(report: SystemReport) -> dict[int, str]:
    """Colour of each generation and, under `PRETRAINING`, of pre-training."""
    of = len(report.generations)
    colours = {g.number: gradient(g.number, of) for g in report.generations}
    if report.pretraining:
        colours[PRETRAINING] = NEUTRAL
    return colours


def rounded(values: Iterable[float]) -> list[float | None]:
    """Values with four significant digits: finer than a pixel, and the page has half the size."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


def curve_points(x: np.ndarray, y: np.ndarray, most: int) -> np.ndarray:
    """Choose points of a curve so that it looks the same; the ends are among them.

    The algorithm is MinMaxLTTB: J. Van Der Donckt et al., IEEE VIS 2023, arXiv:2305.00332.

    Args:
        x: ascending, shape (n,).
        y: shape (n,).
        most: points to keep, at least 3.

    Returns:
        Indices, ascending.
    """
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if len(finite) <= most:
        return finite
    from tsdownsample import MinMaxLTTBDownsampler

    x, y = (np.ascontiguousarray(values[finite], dtype=np.float64) for values in (x, y))
    kept: np.ndarray = finite[MinMaxLTTBDownsampler().downsample(x, y, n_out=most).astype(int)]
    return kept


def cloud_points(error: np.ndarray, most: int, *, worst: float = 0.2) -> np.ndarray:
    """Choose points of a cloud: those with the largest errors, and a random draw of the others.

    Args:
        error: error of each point, shape (n,).
        most: points to keep.
        worst: share of the kept points that have the largest errors.

    Returns:
        Indices, ascending; the draw depends on n alone.
    """
    n = len(error)
    if n <= most:
        return np.arange(n)
    order = np.argsort(-np.abs(error), kind="stable")
    first = int(most * worst)
    drawn = np.random.default_rng(n).choice(order[first:], most - first, replace=False)
    return np.sort(np.concatenate([order[:first], drawn]))


def bar(name: str, y: list[str], x: Sequence[float | None], colour: str, unit: str) -> Trace:
    """Horizontal bars of one colour.

    Args:
        name: of the trace.
        y: categories.
        x: lengths of the bars.
        colour: `#rrggbb`.
        unit: word after the number where the mouse points.
    """
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": y,
        "x": list(x),
        "marker": {"color": colour},
        "hovertemplate": f"%{{y}}: %{{x:.4g}} {unit}<extra></extra>",
    }


def categories(names: list[str]) -> dict[str, Any]:
    """A vertical axis of categories, the first on top."""
    return {"type": "category", "categoryorder": "array", "categoryarray": names[::-1]}
