"""Dynamics of one cell of `cli_validity`: what a cell holds is made here.

Not for: models and domains (see `models`), or which cells there are (see `cells`).
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms
from scipy import stats

from halcyon.config import DomainSettings, ExplorationSettings
from halcyon.domain.intervals import Domain
from halcyon.exploration.explore import (
    Exploration,
    Monitoring,
    Progress,
    Replica,
    RunControl,
    explore,
)
from halcyon.frames import structure_only
from halcyon.models.batched import BatchedMace
from halcyon.models.mace import load, load_committee
from halcyon.verdict.forms import Ended
from validity.cells import Cell, Plan
from validity.models import Data, Ready

TELL_EVERY_S = 60.0


@dataclass(frozen=True)
class Job:
    """A cell to compute, and what it takes; `folder` is for its checkpoints."""

    plan: Plan
    cell: Cell
    ready: Ready
    data: Data
    folder: Path
    device: str
    say: Callable[[str], None]

    def starts(self, number: int) -> dict[int, Atoms]:
        """Start frames by replica, from those that all models were trained on."""
        common = self.data.train[: min(self.plan.labels)]
        random = np.random.default_rng(self.cell.seed)
        return {i: structure_only(common[random.integers(len(common))]) for i in range(number)}

    def explored(
        self,
        frames: dict[int, Atoms],
        settings: ExplorationSettings,
        watched: DomainSettings,
        *,
        dtype: str | None = None,
    ) -> Exploration:
        """Explore at the cell's temperature.

        Args:
            frames: where each replica starts, by its number.
            settings: for how long, and how.
            watched: signals.
            dtype: of the model; by default its file's.
        """
        told = time.monotonic()

        def report(progress: Progress) -> None:
            nonlocal told
            if time.monotonic() - told > TELL_EVERY_S:
                told = time.monotonic()
                left = f"{progress.seconds_left:.0f} s left"
                self.say(f"  {progress.done:.0%}, {progress.failed} failed, {left}")

        ready, kelvin = self.ready, self.cell.temperature_K
        return explore(
            BatchedMace(load(ready.file, device=self.device, dtype=dtype)),
            [Replica(number, kelvin, frame) for number, frame in frames.items()],
            settings,
            Monitoring(
                domain=Domain.read(ready.domain),
                settings=watched,
                system_kind="molecule",
                committee=load_committee(watched, device=self.device),
            ),
            RunControl(
                work=self.folder,
                identity=ready.entry["weights"]
                + hashlib.sha256(ready.domain.read_bytes()).hexdigest(),
                report=report,
            ),
            seed=self.cell.seed,
        )


def run_replicas(job: Job) -> dict[str, Any]:
    """A `dynamics` or `extension` cell: replicas with every signal watched."""
    plan, time_ps, trace_fs = job.plan, job.plan.time_ps, job.plan.trace_fs
    if job.cell.kind == "extension":
        time_ps, trace_fs = plan.extension * plan.time_ps, 1000 * plan.time_ps / 8
    settings = ExplorationSettings(
        time_ps=time_ps,
        replacements=0,
        timestep_fs=plan.timestep_fs,
        trace_points_per_ps=round(1000 / trace_fs),
    )
    begun = time.monotonic()
    frames = job.starts(plan.replicas)
    found = job.explored(frames, settings, job.ready.settings)
    return {
        "atoms": len(frames[0]),
        "time_ps": time_ps,
        "timestep_fs": plan.timestep_fs,
        "trace_fs": trace_fs,
        "judged_ps": plan.time_ps,
        "seconds": round(time.monotonic() - begun, 1),
        "replicas": condensed(found.traces, found.replicas, timestep_ps=plan.timestep_fs / 1000),
    }


def condensed(
    traces: pd.DataFrame, replicas: Sequence[Ended], *, timestep_ps: float
) -> list[dict[str, Any]]:
    """What a cell keeps of each replica: when it ended, and whole numbers, which are exact.

    Args:
        traces: as `explore` makes them, with the hard indicator.
        replicas: how each replica ended, as `explore` says.
        timestep_ps: time step, ps.

    Returns:
        Per replica: replica, end_ps, failure; and per signal, for each interval (the last one ends
        with the failure): `outside`, steps outside summed over atoms, and `worst_atom`, by how many
        steps the greatest Λ_i grew.
    """
    signals = [name.removeprefix("rate_") for name in traces.columns if name.startswith("rate_")]
    rows = []
    for end in replicas:
        mine = traces[traces["replica"] == end.replica]
        steps = {
            name: np.rint(np.diff(mine[name], prepend=0.0) * weight / timestep_ps).astype(int)
            for signal in signals
            for name, weight in ((f"cli_{signal}", end.atoms), (f"cli_{signal}_max", 1))
        }
        rows.append(
            {
                "replica": end.replica,
                "end_ps": round(float(end.time_ps), 6),
                "failure": end.failure,
                "outside": {s: steps[f"cli_{s}"].tolist() for s in signals},
                "worst_atom": {s: steps[f"cli_{s}_max"].tolist() for s in signals},
            }
        )
    return rows


def run_nve(job: Job) -> dict[str, Any]:
    """An `nve` cell: how fast the total energy drifts without a thermostat.

    In double precision: what is measured is the potential at this time step, not rounding. A
    replica whose bond breaks is left out from there on.
    """
    begun, plan = time.monotonic(), job.plan
    free = ExplorationSettings(
        ensemble="nve",
        equilibration_ps=plan.nve_ps / 4,
        time_ps=plan.nve_ps,
        replacements=0,
        timestep_fs=plan.timestep_fs,
        trace_points_per_ps=round(1000 / plan.timestep_fs),  # every step
        energy_drift_eV_per_atom=1e6,  # measured, not judged
    )
    frames = job.starts(plan.nve_replicas)
    found = job.explored(frames, free, DomainSettings(), dtype="float64")
    failures = {end.replica: end.failure for end in found.replicas}
    traces = dict(list(found.traces.groupby("replica")))
    drifts = {
        end.replica: drift(traces[end.replica], end, nve_ps=plan.nve_ps) for end in found.replicas
    }
    return {
        "atoms": len(frames[0]),
        "time_ps": plan.nve_ps,
        "timestep_fs": plan.timestep_fs,
        "dtype": "float64",
        "seconds": round(time.monotonic() - begun, 1),
        "replicas": [
            {"replica": i, "failure": failures[i], "drift_meV_per_atom_ps": drifts[i]}
            for i in frames
        ],
    }


def drift(trace: pd.DataFrame, replica: Ended, *, nve_ps: float) -> float | None:
    """Slope of a replica's total energy, meV per atom and ps; None if it failed in the first half.

    Args:
        trace: its rows, as `explore` makes them; the last one may be that of its failure.
        replica: how it ended, as `explore` says.
        nve_ps: the time asked for, ps.
    """
    if replica.failure is not None:
        trace = trace[:-1]
    if replica.time_ps <= nve_ps / 2:
        return None
    total_eV = trace["potential_energy"] + trace["kinetic_energy"]
    slope = stats.linregress(trace["time"], total_eV).slope
    return float(f"{1000 * slope / replica.atoms:.4g}")
