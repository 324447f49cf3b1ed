"""What the cells of `pretraining` say: stability and errors, ratios, labels until saturation.

Not for: computing cells (see `pretraining`).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from halcyon.verdict.survival import restricted_mean_ps

RESAMPLES = 2000
CAMPAIGN = "campaign"
"""Groups that begin so are whole campaigns."""


def summarised(cells: Sequence[dict[str, Any]], *, seed: int) -> dict[str, Any]:
    """Stability and errors of each group; ratios of restricted means; labels until saturation."""
    points: dict[str, dict[str, list[dict[str, Any]]]] = {}
    campaigns: dict[str, list[dict[str, Any]]] = {}
    for cell in sorted(cells, key=lambda cell: (cell["system"], cell["labels"], -cell["kelvin"])):
        if cell["group"].startswith(CAMPAIGN):
            group = cell["group"].removeprefix(f"{CAMPAIGN}-")
            campaigns.setdefault(group, []).append(
                {key: cell[key] for key in ("seed", "labels", "decision")}
            )
        else:
            point = f"{cell['system']}-{cell['labels']}_{cell['kelvin']}K"
            points.setdefault(point, {}).setdefault(cell["group"], []).append(cell)
    ratios: dict[str, Any] = {}
    for point, groups in points.items():
        for group in set(groups) - {"scratch"} if "scratch" in groups else []:
            ratios.setdefault(point, {})[group] = ratio(groups[group], groups["scratch"], seed=seed)
    return {
        "points": {
            point: {group: described(found, seed=seed) for group, found in sorted(groups.items())}
            for point, groups in points.items()
        },
        "survival_ratio": ratios,
        "labels_to_saturation": campaigns,
    }


def described(cells: Sequence[dict[str, Any]], *, seed: int) -> dict[str, Any]:
    """Replicas of all seeds of a group together."""
    rows = [row for cell in cells for row in cell["replicas"]]
    failed = [row["failure"] is not None for row in rows]
    ends = [row["end_ps"] for row in rows]
    mean = restricted_mean_ps(ends, failed, horizon_ps=max(ends), seed=seed)
    errors = [cell["errors"]["300"] for cell in cells]
    shifts = [row["shift"] for cell in cells for row in cell["drift"].values()]
    return {
        "seeds": len(cells),
        "replicas": len(rows),
        "failed": sum(failed),
        "failed_by_seed": [
            sum(row["failure"] is not None for row in cell["replicas"]) for cell in cells
        ],
        "restricted_mean_ps": {"value": mean.value, "low": mean.low, "high": mean.high},
        "force_mae_meV_per_A": float(np.mean([e["forces_mae_meV_per_A"] for e in errors])),
        "force_mae_by_seed": [e["forces_mae_meV_per_A"] for e in errors],
        "energy_mae_meV_per_atom": float(np.mean([e["energy_mae_meV_per_atom"] for e in errors])),
        "median_shift": float(np.median([shift for shift in shifts if shift is not None])),
    }


def ratio(
    cells: Sequence[dict[str, Any]], scratch: Sequence[dict[str, Any]], *, seed: int
) -> dict[str, Any]:
    """Ratio of restricted mean times; models, then their replicas, are drawn for the interval.

    Nothing is censored before the horizon, so that the restricted mean is the mean of the ends.
    With few failures the bootstrap is too narrow: the interval then also covers what each group's
    own interval, from `restricted_mean_ps`, allows. `high` is null where nothing bounds it.
    """
    rng = np.random.default_rng(seed)

    def drawn(group: Sequence[dict[str, Any]]) -> list[float]:
        ends = [np.array([row["end_ps"] for row in cell["replicas"]]) for cell in group]
        return [
            float(np.mean([rng.choice(ends[i], len(ends[i])).mean() for i in models]))
            for models in rng.integers(len(ends), size=(RESAMPLES, len(ends)))
        ]

    mine, theirs = (described(group, seed=seed)["restricted_mean_ps"] for group in (cells, scratch))
    if theirs["value"] == 0:
        return {"value": None, "low": None, "high": None, "seeds": [len(cells), len(scratch)]}
    low, high = np.quantile(np.divide(drawn(cells), drawn(scratch)), [0.025, 0.975])
    highs = [high, mine["high"] / theirs["value"]]
    if theirs["low"] > 0:
        highs.append(mine["value"] / theirs["low"])
    return {
        "value": mine["value"] / theirs["value"],
        "low": float(min(low, mine["low"] / theirs["value"], mine["value"] / theirs["high"])),
        "high": float(max(highs)) if theirs["low"] > 0 else None,
        "seeds": [len(cells), len(scratch)],
    }


def lines(summary: dict[str, Any]) -> Iterator[str]:
    """The summary as a Markdown table."""
    head = "| point | group | seeds | failed | restricted mean, ps | ratio to scratch "
    yield head + "| F, meV/Å | E, meV/atom | shift |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for point, groups in summary["points"].items():
        for group, row in groups.items():
            mean = "{value:.2f} ({low:.2f}–{high:.2f})".format(**row["restricted_mean_ps"])
            found = summary["survival_ratio"].get(point, {}).get(group)
            text = ""
            if found and found["value"] is not None:
                above = "" if found["high"] is None else f"{found['high']:.2f}"
                text = f"{found['value']:.2f} ({found['low']:.2f}–{above})"
            yield (
                f"| {point} | {group} | {row['seeds']} | {row['failed']} of {row['replicas']} | "
                f"{mean} | {text} | {row['force_mae_meV_per_A']:.0f} | "
                f"{row['energy_mae_meV_per_atom']:.1f} | {row['median_shift']:.1f} |"
            )
    for group, runs in summary["labels_to_saturation"].items():
        ends = ", ".join(f"{run['labels']} ({run['decision']})" for run in runs)
        yield f"Labels until saturation, {group}: {ends}"
