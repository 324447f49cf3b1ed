"""What is known of each replica in the cells of `cli_validity`: Λ, λ, and how it ended.

Not for: what follows from it (see `foretelling` and `statistics`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from validity.cells import Model, Plan

CellDict = dict[str, Any]
"""As `cells` reads it."""
Place = tuple[str, float]
"""Model and temperature."""
LATE = 0.5
"""Λ has stopped growing if no prediction was outside in this last part of the run."""


def cli_ps(cell: CellDict, row: CellDict, signal: str) -> np.ndarray:
    """Λ at the end of each interval of a replica's trace, ps."""
    steps = np.cumsum(np.asarray(row["outside"][signal], dtype=float))
    return steps * cell["timestep_fs"] / 1000 / cell["atoms"]


def mean_rate(cell: CellDict, row: CellDict, signal: str) -> float:
    """λ of a replica: mean over all whole intervals before its end."""
    whole = int(row["end_ps"] * 1000 / cell["trace_fs"] + 1e-6)
    cli = cli_ps(cell, row, signal)
    if not whole:  # it failed at once
        return float(cli[-1] / row["end_ps"])
    return float(cli[whole - 1] / (whole * cell["trace_fs"] / 1000))


def late_outside(cell: CellDict, row: CellDict, signal: str) -> int:
    """Steps outside, summed over atoms, in the late part of the time judged."""
    end = round(1000 * cell["judged_ps"] / cell["trace_fs"])
    return sum(row["outside"][signal][round(end * (1 - LATE)) : end])


def extension_temperature(plan: Plan, model: Model, cells: Iterable[CellDict]) -> float | None:
    """Temperature at which a model's replicas are run on; None before all its cells are there.

    Where the replicas that are through differ most in whether Λ stopped growing, of the label and
    the guard domain together; of equal ones the highest that at least half of them survive.
    """
    mine = [c for c in cells if c["kind"] == "dynamics" and c["model"] == model.name]
    if len(mine) < len(plan.temperatures_K):
        return None

    def rank(cell: CellDict) -> tuple[int, bool, float]:
        through = [row for row in cell["replicas"] if row["failure"] is None]
        mixed = 0
        for name in ("label", "guard"):
            calm = sum(late_outside(cell, row, name) == 0 for row in through)
            mixed += min(calm, len(through) - calm)
        return mixed, 2 * len(through) >= len(cell["replicas"]), cell["temperature_K"]

    return float(max(mine, key=rank)["temperature_K"])


def replica_table(cells: Sequence[CellDict]) -> pd.DataFrame:
    """All replicas of dynamics and extensions, a row each.

    Of each signal: `rate`, mean λ; `cli`, Λ at its end, ps; `late`, steps per atom outside in the
    late part of the time judged. `judged`: it lived that long.
    """
    rows = []
    for cell in (cell for cell in cells if cell["kind"] != "nve"):
        known = {name: cell[name] for name in ("kind", "model", "group")}
        for row in cell["replicas"]:
            mine = known | {"temperature_K": float(cell["temperature_K"])}
            mine |= {"end_ps": row["end_ps"], "failed": row["failure"] is not None}
            mine["judged"] = row["end_ps"] >= cell["judged_ps"] - 1e-9
            for signal in row["outside"]:
                mine[f"rate {signal}"] = mean_rate(cell, row, signal)
                mine[f"cli {signal}"] = float(np.append(0.0, cli_ps(cell, row, signal))[-1])
                mine[f"late {signal}"] = late_outside(cell, row, signal) / cell["atoms"]
            rows.append(mine)
    return pd.DataFrame(rows)


def signals_of(replicas: pd.DataFrame) -> list[str]:
    """Signals that were watched."""
    return [name.removeprefix("rate ") for name in replicas.columns if name.startswith("rate ")]


def by_place(replicas: pd.DataFrame, column: str) -> dict[Place, np.ndarray]:
    """A column's values, by model and temperature."""
    groups = replicas.groupby(["model", "temperature_K"])[column]
    return {place: mine.to_numpy() for place, mine in groups}


def nve_drifts(cells: Sequence[CellDict]) -> dict[Place, np.ndarray]:
    """Drifts of the replicas of `nve` cells that held together, meV/atom/ps."""
    drifts = {}
    for cell in (cell for cell in cells if cell["kind"] == "nve"):
        values = [row["drift_meV_per_atom_ps"] for row in cell["replicas"]]
        known = [value for value in values if value is not None]
        drifts[cell["model"], float(cell["temperature_K"])] = np.array(known, dtype=float)
    return drifts
