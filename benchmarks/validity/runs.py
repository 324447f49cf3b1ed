"""Dynamics of one cell of `cli_validity`: what a cell holds is made here.

Not for: models and domains (see `models`), or which cells there are (see `cells`).
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms
from scipy import stats

from halcyon.config import DomainSettings, ExplorationSettings
from halcyon.domain import Domain
from halcyon.dynamics import KELVIN
from halcyon.explore import Exploration, Progress, Replica, explore
from halcyon.frames import read_frames, structure_only
from halcyon.mace_model import BatchedMace, load, load_committee
from validity.cells import Cell, Plan
from validity.models import Data, Ready

TELL_EVERY_S = 60.0


def run_replicas(
    plan: Plan,
    cell: Cell,
    ready: Ready,
    data: Data,
    folder: Path,
    *,
    device: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """A `dynamics` or `extension` cell: replicas with every signal watched."""
    time_ps, trace_fs = plan.time_ps, plan.trace_fs
    if cell.kind == "extension":
        time_ps, trace_fs = plan.extension * plan.time_ps, 1000 * plan.time_ps / 8
    settings = ExplorationSettings(
        time_ps=time_ps,
        replacements=0,
        timestep_fs=plan.timestep_fs,
        trace_points_per_ps=round(1000 / trace_fs),
    )
    begun = time.monotonic()
    frames = dict(enumerate(starts(plan, data, plan.replicas, cell.seed)))
    found = _explored(
        cell, ready, frames, settings, folder, device=device, watched=ready.settings, say=say
    )
    timestep_ps = plan.timestep_fs / 1000
    rows = condensed(
        found.traces, found.replicas, timestep_ps=timestep_ps, trace_ps=trace_fs / 1000
    )
    return {
        "atoms": len(frames[0]),
        "time_ps": time_ps,
        "timestep_fs": plan.timestep_fs,
        "trace_fs": trace_fs,
        "judged_ps": plan.time_ps,
        "seconds": round(time.monotonic() - begun, 1),
        "replicas": rows,
    }


def run_nve(
    plan: Plan,
    cell: Cell,
    ready: Ready,
    data: Data,
    folder: Path,
    *,
    device: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """An `nve` cell: how fast the total energy drifts without a thermostat.

    In double precision: what is measured is the potential at this time step, not rounding. A
    replica whose bond breaks is left out from there on.
    """
    begun = time.monotonic()
    options = {"replacements": 0, "timestep_fs": plan.timestep_fs}
    heat_ps = plan.nve_ps / 4
    heating = ExplorationSettings(**options, time_ps=heat_ps, trajectory_every_fs=1000 * heat_ps)
    free = ExplorationSettings(
        **options,
        ensemble="nve",
        time_ps=plan.nve_ps,
        trace_points_per_ps=round(1000 / plan.timestep_fs),  # every step
        energy_drift_eV_per_atom=1e6,  # measured, not judged
    )
    frames = dict(enumerate(starts(plan, data, plan.nve_replicas, cell.seed)))
    how = {"device": device, "dtype": "float64", "watched": DomainSettings(), "say": say}
    heated = _explored(cell, ready, frames, heating, folder, **how)
    failures = {entry["replica"]: entry["failure"] for entry in heated.replicas}
    alive = {
        frame.info["replica"]: structure_only(frame)
        for part in heated.trajectory
        for frame in read_frames(part)
    }
    drifts: dict[int, float | None] = {}
    if alive:
        # Of the heated frames only the positions go on: new momenta are as good a draw.
        found = _explored(cell, ready, alive, free, folder, stage=1, **how)
        for entry in found.replicas:
            number = entry["replica"]
            failures[number] = entry["failure"]
            mine = found.traces[found.traces["replica"] == number]
            drifts[number] = drift(mine, entry, nve_ps=plan.nve_ps)
    return {
        "atoms": len(frames[0]),
        "time_ps": plan.nve_ps,
        "timestep_fs": plan.timestep_fs,
        "dtype": "float64",
        "seconds": round(time.monotonic() - begun, 1),
        "replicas": [
            {
                "replica": number,
                "failure": failures[number],
                "drift_meV_per_atom_ps": drifts.get(number),
            }
            for number in frames
        ],
    }


def drift(trace: pd.DataFrame, replica: dict[str, Any], *, nve_ps: float) -> float | None:
    """Slope of a replica's total energy, meV per atom and ps; None if it failed in the first half.

    Args:
        trace: its rows, as `explore` makes them; the last one may be that of its failure.
        replica: how it ended, as `explore` says.
        nve_ps: the time asked for, ps.
    """
    if replica["failure"] is not None:
        trace = trace[:-1]
    if replica["time_ps"] <= nve_ps / 2 or len(trace) < 2:
        return None
    # The temperature counts 3 degrees of freedom per atom, so that this is the kinetic energy.
    kinetic_eV = 1.5 * replica["atoms"] * KELVIN * trace["temperature"]
    slope = stats.linregress(trace["time"], trace["potential_energy"] + kinetic_eV).slope
    return float(f"{1000 * slope / replica['atoms']:.4g}")


def starts(plan: Plan, data: Data, number: int, seed: int) -> list[Atoms]:
    """Start frames, from those that all models were trained on."""
    common = data.train[: min(plan.labels)]
    random = np.random.default_rng(seed)
    return [structure_only(common[random.integers(len(common))]) for _ in range(number)]


def _explored(
    cell: Cell,
    ready: Ready,
    frames: dict[int, Atoms],
    settings: ExplorationSettings,
    folder: Path,
    *,
    device: str,
    watched: DomainSettings,
    say: Callable[[str], None],
    dtype: str | None = None,
    stage: int = 0,
) -> Exploration:
    """Explore from frames, by replica number, at the cell's temperature."""
    told = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_EVERY_S:
            told = time.monotonic()
            left = f"{progress.seconds_left:.0f} s left"
            say(f"  {progress.done:.0%}, {progress.failed} failed, {left}")

    return explore(
        BatchedMace(load(ready.file, device=device, dtype=dtype)),
        Domain.read(ready.domain),
        [Replica(number, cell.temperature_K, frame) for number, frame in frames.items()],
        settings,
        watched,
        kind="molecule",
        work=folder,
        identity=ready.entry["weights"] + hashlib.sha256(ready.domain.read_bytes()).hexdigest(),
        seed=cell.seed + stage,
        committee=load_committee(watched, device=device),
        report=report,
    )


def condensed(
    traces: pd.DataFrame,
    replicas: Sequence[dict[str, Any]],
    *,
    timestep_ps: float,
    trace_ps: float,
) -> list[dict[str, Any]]:
    """What a cell keeps of each replica: when it ended, and whole numbers, which are exact.

    Args:
        traces: as `explore` makes them, with the hard indicator.
        replicas: how each replica ended, as `explore` says.
        timestep_ps: time step, ps.
        trace_ps: length of the intervals, ps.

    Returns:
        Per replica: replica, end_ps, failure; and per signal, for each interval (the last one ends
        with the failure): `outside`, steps outside summed over atoms, and `worst_atom`, by how many
        steps the greatest Λ_i grew.
    """
    signals = [name.removeprefix("rate_") for name in traces.columns if name.startswith("rate_")]
    step = (traces["time"] / timestep_ps).round().astype(int)
    # Beside the points of the grid, a replica has that of its failure.
    last = ~traces["replica"].duplicated(keep="last")
    kept = traces[(step % round(trace_ps / timestep_ps) == 0) | last]

    def steps(mine: pd.DataFrame, column: str, atoms: int) -> list[int]:
        grown = np.diff(mine[column].to_numpy(), prepend=0.0) * atoms / timestep_ps
        return np.rint(grown).astype(int).tolist()

    rows = []
    for entry in replicas:
        mine = kept[kept["replica"] == entry["replica"]]
        rows.append(
            {
                "replica": entry["replica"],
                "end_ps": round(float(entry["time_ps"]), 6),
                "failure": entry["failure"],
                "outside": {s: steps(mine, f"cli_{s}", entry["atoms"]) for s in signals},
                "worst_atom": {s: steps(mine, f"cli_{s}_max", 1) for s in signals},
            }
        )
    return rows
