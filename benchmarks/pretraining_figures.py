"""Figures of what the cells of `pretraining` say.

Not for: the numbers themselves (see `pretraining_summary`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halcyon.verdict.survival import kaplan_meier

COLOURS = {
    "scratch": "#c2571a",
    "pretrained": "#1f6fb4",
    "shuffled": "#8a8a8a",
    "zbl": "#3b8a4f",
}
NAMES = {
    "scratch": "from scratch",
    "pretrained": "pre-trained",
    "shuffled": "pre-trained on shuffled labels",
    "zbl": "from scratch, with ZBL repulsion",
}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
}
POINT = ("ethanol", 50, 1100)
"""System, labels and temperature (K) of the survival curves, where the controls are, too."""


def draw(cells: Sequence[dict[str, Any]], summary: dict[str, Any], folder: Path) -> None:
    """Write `pretraining.png`: survival, time to failure and force errors against labels."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(STYLE):
        figure, (curves, times, errors) = plt.subplots(1, 3, figsize=(10, 3.2))
        _survival(curves, cells)
        _against_labels(times, errors, summary)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "pretraining.png")
        plt.close(figure)


def _survival(axes: Any, cells: Sequence[dict[str, Any]]) -> None:
    for group, colour in COLOURS.items():
        rows = [
            row
            for cell in cells
            if (cell["system"], cell["labels"], cell.get("kelvin")) == POINT
            and cell["group"] == group
            for row in cell["replicas"]
        ]
        if not rows:
            continue
        curve = kaplan_meier(
            [row["end_ps"] for row in rows], [row["failure"] is not None for row in rows]
        )
        axes.step([0, *curve.at_ps], [1, *curve.survival], where="post", color=colour)
        axes.fill_between(
            [0, *curve.at_ps],
            [1, *curve.low],
            [1, *curve.high],
            step="post",
            color=colour,
            alpha=0.15,
        )
        axes.plot([], color=colour, label=f"{NAMES[group]} ({len(rows)} replicas)")
    system, labels, kelvin = POINT
    axes.set(
        title=f"{system}, {labels} labels, {kelvin} K",
        xlabel="time, ps",
        ylabel="replicas that hold",
        ylim=(-0.02, 1.05),
    )
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.62), fontsize=7)


def _against_labels(times: Any, errors: Any, summary: dict[str, Any]) -> None:
    for group in ("scratch", "pretrained"):
        for kelvin, style in ((800, "--o"), (1100, "-s")):
            found = {
                int(point.split("-")[1].split("_")[0]): groups[group]
                for point, groups in summary["points"].items()
                if point.startswith("ethanol-") and point.endswith(f"_{kelvin}K")
                if group in groups
            }
            if not found:
                continue
            means = {n: row["restricted_mean_ps"] for n, row in sorted(found.items())}
            middle = [mean["value"] for mean in means.values()]
            bars = [
                [mean["value"] - mean["low"] for mean in means.values()],
                [mean["high"] - mean["value"] for mean in means.values()],
            ]
            times.errorbar(
                list(means),
                middle,
                bars,
                fmt=style,
                ms=4,
                capsize=2,
                color=COLOURS[group],
                label=f"{NAMES[group]}, {kelvin} K",
            )
            if kelvin == 1100:
                for n, row in found.items():
                    errors.plot(
                        [n] * len(row["force_mae_by_seed"]),
                        row["force_mae_by_seed"],
                        "o",
                        ms=4,
                        alpha=0.6,
                        color=COLOURS[group],
                    )
                line = [row["force_mae_meV_per_A"] for _, row in sorted(found.items())]
                errors.plot(sorted(found), line, color=COLOURS[group], label=NAMES[group])
    for axes in (times, errors):
        axes.set_xscale("log")
        axes.set_xticks([25, 50, 100, 200], ["25", "50", "100", "200"])
        axes.minorticks_off()
        axes.set_xlabel("labels")
    times.legend(loc="upper left", bbox_to_anchor=(0.0, 0.8), fontsize=7)
    errors.legend(fontsize=7)
    times.set(title="ethanol: mean time without failure", ylabel="of 4 ps (95 %)", ylim=(0, 4.3))
    errors.set(title="ethanol: error of forces at 300 K", ylabel="MAE, meV/Å", ylim=(0, None))
