"""Figures of `signal_truth`, `verdict_truth` and `verdict_simulation`.

    draw_signals(summary, Path("docs/figures"))     # signals.png
    draw_verdicts(cells, Path("docs/figures"))      # verdicts.png
    draw_simulated(cells, Path("docs/figures"))     # simulated.png

Not for: the numbers (see `signals.summary`, and the benchmarks).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretraining_figures import STYLE
from signals.summary import REACH

THRESHOLD = "0.5 eV/A"
SHOWN = {
    "node_energy": "interval of atomic energies",
    "guard": "interval, teacher's frames",
    "force_magnitude": "size of the force",
    "bond_stretch": "stretch of bonds",
    "pair_novelty": "rarest distance to a neighbour",
    "latent": "latent distance",
    "latent_scaled": "latent distance, scaled per class",
    "nearest1": "nearest training atom",
    "mixture": "Gaussian mixture",
    "rigidity_energy": "last-layer rigidity, energy",
    "rigidity_force": "last-layer rigidity, force",
    "heads_force": "8 readouts, force",
    "committee": "committee of 3 models",
    "second_opinion": "second Hamiltonian",
}
"""Signals drawn, and how they are called."""
SETS = {
    "a molecule": ("#1f6fb4", "o", ("ethanol", "aspirin")),
    "water, and an ion in it": ("#3b8a4f", "s", ("water", "sodium")),
    "a reaction": ("#c2571a", "^", ("channel",)),
}
MARKS = "osv^Dp*X"


def draw_signals(summary: dict[str, Any], folder: Path) -> None:
    """Write `signals.png`: AUROC of each signal in each place, dearer than 5 % of a step or not."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name in SHOWN if name in summary["auroc"]]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.5, 4.6))
        for kind, (colour, mark, beginnings) in SETS.items():
            x, y = [], []
            for row, name in enumerate(names):
                for place, by_threshold in summary["auroc"][name].items():
                    estimate = by_threshold[THRESHOLD]
                    if estimate and place.startswith(beginnings):
                        x.append(estimate["value"])
                        y.append(row)
            axes.plot(x, y, mark, color=colour, ms=5, alpha=0.7, mew=0, label=kind)
        for row, name in enumerate(names):
            median = summary["overall"][name][THRESHOLD]["median"]
            axes.plot([median, median], [row - 0.32, row + 0.32], color="black", lw=1.5)
        axes.plot([], [], color="black", lw=1.5, label="median")
        axes.axvline(0.5, color="#8a8a8a", lw=0.8, ls=":")
        axes.axvline(REACH, color="#8a8a8a", lw=0.8, ls="--")
        axes.text(0.5, -0.9, "chance", ha="center", color="#666666")
        axes.text(REACH, -0.9, "aim", ha="center", color="#666666")
        axes.text(1.01, -0.9, "cost, of a step", color="#666666")
        axes.set_yticks(range(len(names)), [SHOWN[n] for n in names])
        axes.set_ylim(len(names) - 0.4, -1.2)
        axes.set_xlim(0, 1)
        axes.set_xlabel("AUROC for a force error above 0.5 eV/Å")
        costs = axes.secondary_yaxis("right")
        costs.set_yticks(range(len(names)), [_cost(summary["cost_fraction"][n]) for n in names])
        costs.tick_params(length=0)
        costs.spines["right"].set_visible(False)
        axes.legend(loc="lower left")
        _save(figure, folder / "signals.png")


def draw_verdicts(cells: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write `verdicts.png`: what was claimed and what was seen, and selected against random."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    systems = list(dict.fromkeys(cell["system"] for cell in cells))
    with mpl.rc_context(STYLE):
        figure, (forces, events, selected) = plt.subplots(1, 3, figsize=(10, 3.5))
        for number, system in enumerate(systems):
            of_system = [cell for cell in cells if cell["system"] == system]
            look = {
                "color": f"C{number}",
                "marker": MARKS[number],
                "ls": "",
                "ms": 5,
                "alpha": 0.7,
                "mew": 0,
            }
            for axes, kind in ((forces, "forces"), (events, "events")):
                claims = [c for cell in of_system for c in cell["claims"] if c["kind"] == kind]
                axes.plot([c["bound"] for c in claims], [c["observed"] for c in claims], **look)
            rounds = [g for cell in of_system for g in cell["selection"] if "selected" in g]
            errors = [
                [g[kind]["forces_mae_meV_per_A"] for g in rounds] for kind in ("audit", "selected")
            ]
            label = system.replace("_", " ").replace("-", " ").replace("water12", "12 waters")
            selected.plot(*errors, **look, label=label)
        _broken(forces, "force error, meV/Å")
        _broken(events, "events, 1/ns and molecule")
        selected.set(
            xscale="log",
            yscale="log",
            xlabel="random frames, meV/Å",
            ylabel="selected frames, meV/Å",
            title="force error of a generation's frames",
        )
        ends = np.array(selected.get_xlim())
        selected.plot(ends, ends, color="#8a8a8a", lw=0.8)
        figure.legend(loc="outside lower center", ncols=len(systems), handletextpad=0.1)
        _save(figure, folder / "verdicts.png")


def draw_simulated(cells: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write `simulated.png`: how often campaigns are called calm, by their true rate of events."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shapes = list(dict.fromkeys(cell["shape"] for cell in cells))
    sizes = list(dict.fromkeys(cell["burst"] for cell in cells))
    with mpl.rc_context(STYLE):
        figure, every = plt.subplots(1, len(shapes), figsize=(10, 3.2), sharey=True)
        for axes, shape in zip(every, shapes, strict=True):
            for number, size in enumerate(sizes):
                rows = [c for c in cells if (c["shape"], c["burst"]) == (shape, size)]
                rates = [row["rate"] for row in rows]
                now, before = ([row[k] for row in rows] for k in ("calm", "formerly_calm"))
                label = "single activities" if size == 1 else f"bursts of {size} on average"
                axes.errorbar(
                    rates,
                    [share["value"] for share in now],
                    np.abs([[s[end] - s["value"] for s in now] for end in ("low", "high")]),
                    color=f"C{number}",
                    marker=MARKS[number],
                    ms=5,
                    lw=1,
                    label=label,
                )
                values = [share["value"] for share in before]
                axes.plot(
                    rates, values, color=f"C{number}", marker=MARKS[number], ms=4, lw=1, ls=":"
                )
            axes.axhline(0.05, color="#8a8a8a", lw=0.8, ls="--")
            of = "all replicas alike" if shape is None else f"replicas differ, shape {shape:g}"
            axes.set(title=of, xscale="log", xlabel="true rate of events, λ*")
            axes.set_xticks([0.1, 1 / 3, 1], ["1/10", "1/3", "1"], minor=False)
            axes.set_xticks([], minor=True)
        every[0].set_ylabel("campaigns called calm")
        every[0].plot([], color="black", lw=1, ls=":", label="rule of early releases")
        every[0].plot([], color="#8a8a8a", lw=0.8, ls="--", label="5 %, allowed at λ*")
        figure.legend(
            *every[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=len(sizes) + 2,
        )
        _save(figure, folder / "simulated.png")


def _broken(axes: Any, what: str) -> None:
    """Name the axes of claimed and seen; shade where a claim would not have held."""
    end = 1.05 * axes.get_xlim()[1]
    axes.fill_between([0, end], [0, end], [end, end], color="#c1121f", alpha=0.1, lw=0)
    axes.text(0.08 * end, 0.85 * end, "claim broken", color="#c1121f")
    axes.set(
        xlim=(0, end), ylim=(-0.03 * end, end), title=what, xlabel="claimed, at most", ylabel="seen"
    )


def _cost(by_place: dict[str, Any]) -> str:
    """In steps of the dynamics; the median over places."""
    value = float(np.median([cost["value"] for cost in by_place.values()]))
    return f"{100 * value:.1f} %" if value < 1 else f"{value:.0f} steps"


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
