"""Tables, in Markdown, and figures of what `statistics` found."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from validity.cells import GROUPS
from validity.foretelling import MAIN_SCORE, STRATA, TRIVIAL
from validity.replicas import cli_ps

COLOURS = {"scratch": "#c2571a", "pre-trained": "#1f6fb4"}
SIGNAL_COLOURS = {
    "label": "#c2571a",
    "guard": "#1f6fb4",
    "latent": "#3b8a4f",
    "latent_guard": "#8b5fb0",
    "potential_energy": "#8a8a8a",
    "bond_stretch": "#c9a227",
}
SCORES = {"rate": "λ", "cli": "Λ", "cli_max": "max Λ_i"}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
}


def shown(entry: dict[str, Any] | None, digits: int = 2) -> str:
    """`0.83 (0.71–0.90)`, or why there is no number."""
    if entry is None:
        return "–"
    if entry["value"] is None:
        return str(entry.get("outcome", "–"))
    value, low, high = (
        "" if entry[name] is None else f"{entry[name]:.{digits}f}"
        for name in ("value", "low", "high")
    )
    return f"{value} ({low}–{high})".replace("-", "−")


def tables(summary: dict[str, Any]) -> list[Table]:
    """All that `summarised` found, for people."""
    groups, known = summary["foretelling"], summary["settings"]
    by_score = [
        _table(
            f"{text} foretells a failure within {known['horizon_ps']:g} ps: AUROC (95 %); warning "
            f"at {known['false_alarm_rate']:.0%} false alarms",
            ("signal", *groups, "lead time, fs", "warned"),
            (
                (
                    signal,
                    *(shown(group[signal][score]["auroc"]) for group in groups.values()),
                    shown(kinds[score]["lead_time_fs"], 0),
                    shown(kinds[score]["warned"]),
                )
                for signal, kinds in groups["all"].items()
                if score in kinds
            ),
        )
        for score, text in SCORES.items()
    ]
    compared = {name: groups[name] for name in ("all", *STRATA)}
    over = [kinds["clock"][MAIN_SCORE]["gain"]["over"] for kinds in compared.values()]
    gains = _table(
        "AUROC of λ over that of a trivial score (95 %, paired)",
        ("signal", *(f"{name}, over {one}" for name, one in zip(compared, over, strict=True))),
        (
            (signal, *(shown(kinds[signal][MAIN_SCORE]["gain"]) for kinds in compared.values()))
            for signal in groups["all"]
        ),
    )
    horizons = summary["horizons_ps"]
    early = _table(
        "How early: AUROC of λ within cells (95 %), by horizon",
        ("signal", *(f"{horizon} ps" for horizon in horizons)),
        (
            (signal, *(shown(found[signal][MAIN_SCORE]["auroc"]) for found in horizons.values()))
            for signal in groups["all"]
        ),
    )
    return [
        *(*by_score, gains, early, critical_table(summary)),
        *(rho_table(summary), extension_table(summary), cells(summary)),
    ]


def _table(title: str, names: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=f"\n{title}\n", title_justify="left", title_style="bold", box=box.MARKDOWN)
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def critical_table(summary: dict[str, Any]) -> Table:
    """Λ that half of the replicas do not outlive, and how badly it separates."""
    return _table(
        "Critical Λ, ps (95 %); failures below the one of all models, and survivors above it",
        ("signal", "all", *GROUPS, "missed", "false alarms"),
        (
            (
                signal,
                *(shown(found[g]["median"], 3) if g in found else "–" for g in ("all", *GROUPS)),
                *(shown(found["all"][name]) for name in ("missed", "false_alarms")),
            )
            for signal, found in summary["critical_cli_ps"].items()
        ),
    )


def rho_table(summary: dict[str, Any]) -> Table:
    """Correlations of λ."""
    keys = ("rho_temperature", "rho_quality", "rho_error", "rho_failure")
    return _table(
        "Spearman's ρ of λ over models × temperatures (95 %), with …",
        (
            *("signal", "temperature", "error, coldest", "error there", "failed"),
            *(f"failed, {group}" for group in GROUPS),
            *("drift", "drift, one temperature"),
        ),
        (
            (
                signal,
                *(shown(summary[key][signal]) for key in keys),
                *(shown(summary["rho_failure"][signal][group]) for group in GROUPS),
                shown(drift := summary["rho_drift"].get(signal)),
                shown(drift and drift["at_fixed_temperature"]),
            )
            for signal in summary["rho_temperature"]
        ),
    )


def extension_table(summary: dict[str, Any]) -> Table:
    """Who survives five times as long."""
    return _table(
        "Alive at the end, of those whose Λ had stopped growing, and of the others (95 %)",
        ("signal", "saturated", "survive", "not saturated", "survive", "AUROC of late λ"),
        (
            (
                signal,
                *(str(found["of"]), shown(found)),
                *(str(found["not_saturated"]["of"]), shown(found["not_saturated"])),
                shown(found["auroc"]),
            )
            for signal, found in summary["saturated_survival"].items()
        ),
    )


def cells(summary: dict[str, Any]) -> Table:
    """Failures and mean λ of each cell."""
    signals = list(summary["rho_temperature"])
    errors = {entry["model"]: entry["force_mae_meV_per_A"] for entry in summary["models"]}
    return _table(
        "Cells: failed replicas, mean time without failure in ps (95 %), force MAE in meV/Å, "
        "mean λ, and NVE drift in meV/atom/ps",
        ("model", "K", "failed", "lived", "MAE", *signals, "drift"),
        (
            (
                row["model"],
                kelvin := f"{row['temperature_K']:g}",
                f"{row['failed']['successes']} of {row['failed']['of']}",
                shown(row["mean_time_ps"]),
                f"{errors[row['model']][kelvin]:.0f}",
                *(f"{row['rate'][signal]:.2g}" for signal in signals),
                "–" if (drift := row["drift_meV_per_atom_ps"]) is None else f"{drift:.2g}",
            )
            for row in summary["cells"]
        ),
    )


def footnote(summary: dict[str, Any]) -> str:
    """How much was simulated, and where the intervals come from."""
    known = summary["settings"]
    return (
        f"\n{known['failed_replicas']} of {known['replicas']} replicas failed in "
        f"{known['simulated_ps']:.0f} ps. Intervals: of AUROC and lead time, by resampling whole "
        f"replicas; of ρ, models ({len(summary['models'])}: few) and replicas in each cell; of "
        "survivors, exact binomial."
    )


def draw(summary: dict[str, Any], found: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Figures for the documentation, as PNG files in a folder.

    Args:
        summary: as `summarised` returns it.
        found: the cells.
        folder: made if missing.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    runs = [cell for cell in found if cell["kind"] == "dynamics"]
    drawn = []
    with plt.rc_context(STYLE):
        for name, figure in (
            ("cli_traces", traces_figure(runs, "label")),
            ("cli_auroc", auroc_figure(summary)),
            ("cli_horizon", horizon_figure(summary)),
        ):
            drawn.append(folder / f"{name}.png")
            figure.savefig(drawn[-1])
            plt.close(figure)
    return drawn


def traces_figure(runs: Sequence[dict[str, Any]], signal: str) -> Any:
    """Λ of every replica over time: models in rows, temperatures in columns."""
    from matplotlib import pyplot as plt

    models = list(dict.fromkeys(cell["model"] for cell in runs))
    temperatures = sorted({cell["temperature_K"] for cell in runs})
    size = 2.0 * len(temperatures) + 0.6, 1.4 * len(models) + 0.6
    figure, axes = plt.subplots(
        len(models), len(temperatures), figsize=size, sharex=True, sharey="row", squeeze=False
    )
    for cell in runs:
        axis = axes[models.index(cell["model"])][temperatures.index(cell["temperature_K"])]
        for row in cell["replicas"]:
            cli = cli_ps(cell, row, signal)
            at = [min(cell["trace_fs"] / 1000 * n, row["end_ps"]) for n in range(1, len(cli) + 1)]
            axis.plot(at, cli, color=COLOURS[cell["group"]], lw=0.7, alpha=0.7)
            if row["failure"] is not None and len(cli):
                axis.plot(at[-1], cli[-1], "kx", ms=4)
    for axis, kelvin in zip(axes[0], temperatures, strict=True):
        axis.set_title(f"{kelvin:g} K", fontsize=9)
    for row_axes, model in zip(axes, models, strict=True):
        row_axes[0].set_ylabel(f"{model}\nΛ, ps", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("time, ps")
    figure.suptitle(f"Λ of every replica ({signal}); × failure", fontsize=10)
    return figure


def auroc_figure(summary: dict[str, Any]) -> Any:
    """AUROC of λ of each signal with its interval, one panel per group."""
    from matplotlib import pyplot as plt

    groups = summary["foretelling"]
    signals = list(groups["all"])
    size = 2.0 * len(groups) + 1, 0.25 * len(signals) + 1
    figure, axes = plt.subplots(1, len(groups), figsize=size, sharey=True, squeeze=False)
    for axis, (name, found) in zip(axes[0], groups.items(), strict=True):
        axis.axvline(0.5, color="0.7", lw=0.8)
        for row, signal in enumerate(signals):
            entry = found[signal][MAIN_SCORE]["auroc"]
            if entry["value"] is None:
                continue
            colour = "0.6" if signal in TRIVIAL else COLOURS.get(name, "0.1")
            axis.plot([entry["low"], entry["high"]], [row, row], color=colour, lw=1.5)
            axis.plot(entry["value"], row, "o", color=colour, ms=4)
        axis.set_xlim(0.2, 1)
        axis.set_yticks(range(len(signals)), signals)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("AUROC of λ")
    axes[0][0].invert_yaxis()  # shared: as in the tables
    return figure


def horizon_figure(summary: dict[str, Any]) -> Any:
    """AUROC of λ within cells over the time in which the failure is to follow."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(4.6, 3.0))
    for signal, colour in SIGNAL_COLOURS.items():
        known = [
            (float(horizon), entry)
            for horizon, found in summary["horizons_ps"].items()
            if signal in found
            if (entry := found[signal][MAIN_SCORE]["auroc"])["value"] is not None
        ]
        at = [horizon for horizon, _ in known]
        low, high = ([entry[end] for _, entry in known] for end in ("low", "high"))
        axis.plot(at, [e["value"] for _, e in known], "o-", color=colour, ms=3, label=signal)
        axis.fill_between(at, low, high, color=colour, alpha=0.12, lw=0)
    axis.axhline(0.5, color="0.7", lw=0.8)
    axis.set_xscale("log")
    axis.set_xticks(at, [f"{horizon:g}" for horizon in at])
    axis.set_xlabel("fails within, ps")
    axis.set_ylabel("AUROC of λ, within cells")
    axis.legend(fontsize=7)
    return figure
