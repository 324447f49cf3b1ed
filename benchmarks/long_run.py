"""Does the memory of an exploration grow with its length?

Dimers under a pair potential, 8 replicas, a million steps, all monitors on: the model is nearly
free, so that what grows is ours. Memory is read after a warm-up and at the end, and disk at the
end: the checkpoint holds the traces, thinned to a set number of points per ps.

    python benchmarks/long_run.py --json long_run.json
    python benchmarks/long_run.py --steps 50000          a shorter one

Not for: speed of a real model (see `exploration_speed`).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from rich.console import Console
from rich.table import Table
from torch_sim.models.interface import ModelInterface

from halcyon import files
from halcyon.config import DomainSettings, ExplorationSettings
from halcyon.domain.intervals import Domain
from halcyon.domain.margins import Margin
from halcyon.exploration.explore import Monitoring, Progress, Replica, RunControl, explore

STIFFNESS, LENGTH = 20.0, 1.0
"""eV/Å² and Å of the bond."""
WARM_UP = 0.05
"""Part of the run after which memory is read first."""


class Spring(ModelInterface):
    """Diatomic molecules: E = k/2 (r - r0)², half of it on each atom."""

    def __init__(self) -> None:
        """On the CPU, in double precision."""
        super().__init__()
        self._device, self._dtype = torch.device("cpu"), torch.float64
        self._compute_forces, self._compute_stress = True, False

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        """Energy (R,) eV, forces (N, 3) eV/Å, node energies (N,) eV."""
        pairs = state.positions.reshape(-1, 2, 3)
        vector = pairs[:, 1] - pairs[:, 0]
        length = vector.norm(dim=1, keepdim=True)
        energy = STIFFNESS / 2 * (length - LENGTH).squeeze(1) ** 2
        pull = STIFFNESS * (length - LENGTH) * vector / length
        forces = torch.stack([pull, -pull], dim=1).reshape(-1, 3)
        return {
            "energy": energy,
            "forces": forces,
            "node_energy": energy.repeat_interleave(2) / 2,
        }


def resident_mb() -> float:
    """Memory of this process that is in RAM, MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measured(steps: int, replicas: int, work: Path) -> dict[str, Any]:
    """Run it."""
    settings = ExplorationSettings(
        temperatures_K=[600.0],
        replicas=replicas,
        timestep_fs=0.5,
        time_ps=steps * 0.5e-3,
        trace_points_per_ps=10,
        checkpoint_s=5.0,
    )
    margin = Margin(value=0, low=0, high=0, method="conformal", alpha=0.1, n=1)
    domain = Domain(
        classes={"dimer": ["N", "N"]},
        label={"N": (-0.02, 0.02)},
        guard={"N": (-10.0, 10.0)},
        margin=margin,
        bonds={"dimer": [(0, 1, LENGTH)]},
    )
    start = Atoms("N2", [[0, 0, 0], [0, 0, LENGTH]])
    start.info = {"charge": 0, "multiplicity": 1, "structure": "dimer"}
    seen: list[tuple[float, float]] = []

    def report(progress: Progress) -> None:
        seen.append((progress.done, resident_mb()))

    begun = time.monotonic()
    result = explore(
        Spring(),
        [Replica(number, 600.0, start) for number in range(replicas)],
        settings,
        Monitoring(domain=domain, settings=DomainSettings(), system_kind="molecule"),
        RunControl(work=work, identity="long run", report=report),
        seed=1,
    )
    seconds = time.monotonic() - begun
    warm = [mb for done, mb in seen if done >= WARM_UP]
    first, last = (warm[0], warm[-1]) if warm else (resident_mb(), resident_mb())
    return {
        "replica_steps": result.steps,
        "seconds": round(seconds, 1),
        "memory_after_warm_up_MB": round(first, 1),
        "memory_at_end_MB": round(last, 1),
        "memory_growth": round(last / first - 1, 4),
        "checkpoint_MB": round(sum(f.stat().st_size for f in work.rglob("*.checkpoint")) / 1e6, 2),
        "disk_MB": round(sum(f.stat().st_size for f in work.rglob("*") if f.is_file()) / 1e6, 2),
        "trace_points": len(result.traces),
        "candidates": len(result.candidates),
        "candidates_passed_over": result.passed_over,
    }


def main() -> None:
    """Run, print, write."""
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1_000_000, help="of each replica")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        found = measured(args.steps, args.replicas, Path(work))
    table = Table(title=f"{args.replicas} replicas × {args.steps:,} steps")
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in found.items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    Console().print(table)
    if args.json:
        files.write_json(args.json, found)


if __name__ == "__main__":
    main()
