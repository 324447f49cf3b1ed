"""How fast models of published sizes are evaluated, against ASE with MACE's own calculator.

Energies and forces of one system at a time by `MACECalculator`, and of batches by Halcyon's
`BatchedMace`, neighbour lists included, positions new at every evaluation. Weights are random: they
cost what trained ones cost. Rounds of both alternate, and each ratio is taken within one round, so
that a machine whose speed drifts or that others use cancels; given are medians over rounds, with
the least and the greatest, of CPU time on one thread.

    python benchmarks/evaluation_speed.py --quick                    two models, a few minutes
    python benchmarks/evaluation_speed.py --json speed.json          all of them, forty minutes
    python benchmarks/evaluation_speed.py --models 128x0e 64x0e+64x1o --dtype float64

Keys of each line in the JSON: `model`, `system`, `batch`, `dtype`, `evaluations_per_cpu_second`,
`evaluations_per_cpu_second_ase`, `ratio_vs_ase` with `low` and `high`, and the largest difference
of forces from MACE's own, `force_difference_eV_per_A`.

Not for: dynamics with their monitors (see `exploration_speed`), or accuracy.
"""

import argparse
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from mace import modules
from mace.calculators import MACECalculator
from mace.modules.models import o3  # type: ignore[attr-defined]  # e3nn can be imported only after MACE

from halcyon import files
from halcyon.models.batched import BatchedMace
from speed_systems import SEED, USUAL, made_start

MODELS = ("64x0e", "128x0e", "64x0e+64x1o", "128x0e+128x1o", "128x0e+128x1o-foundation")
FOUNDATION = "-foundation"
"""What the newer foundation models have beside: distances transformed by element (Agnesi), sums
divided by densities, a repulsion of nuclei, and a cutoff of 6 Å."""
QUICK = ("64x0e", "64x0e+64x1o")
ELEMENTS = (1, 6, 7, 8)
R_MAX_A, CORRELATION, MAX_ELL = 5.0, 3, 3
FOUNDATION_R_MAX_A = 6.0
BATCHES = {"ethanol": (1, 8, 64), "aspirin": (1, 8, 64), "water64": (1, 8)}
ROUNDS = 3
SHAKE_A = 0.03


def random_model(hidden: str, dtype: torch.dtype) -> Any:
    """A MACE model of two layers with random weights."""
    torch.manual_seed(SEED)
    foundation = hidden.endswith(FOUNDATION)
    density = "Density" if foundation else ""
    first, later = (
        modules.interaction_classes[f"RealAgnostic{density}{kind}InteractionBlock"]
        for kind in ("", "Residual")
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = modules.ScaleShiftMACE(
            r_max=FOUNDATION_R_MAX_A if foundation else R_MAX_A,
            distance_transform="Agnesi" if foundation else "None",
            pair_repulsion=foundation,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=MAX_ELL,
            interaction_cls=later,
            interaction_cls_first=first,
            num_interactions=2,
            num_elements=len(ELEMENTS),
            hidden_irreps=o3.Irreps(hidden.removesuffix(FOUNDATION).replace("+", " + ")),
            MLP_irreps=o3.Irreps("16x0e"),
            gate=torch.nn.functional.silu,
            atomic_energies=np.zeros(len(ELEMENTS)),
            avg_num_neighbors=15.0,
            atomic_numbers=list(ELEMENTS),
            correlation=CORRELATION,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )
    finally:
        torch.set_default_dtype(default)
    return model.to(dtype)


def shaken(start: Atoms, number: int, seed: int) -> list[Atoms]:
    """Copies with positions of their own."""
    random = np.random.default_rng(seed)
    frames = [start.copy() for _ in range(number)]
    for frame in frames:
        frame.positions += random.normal(scale=SHAKE_A, size=frame.positions.shape)
    return frames


def per_cpu_second(evaluate: Callable[[int], int], seconds: float) -> float:
    """Evaluations per CPU-second; `evaluate(i)` makes the i-th call and tells its systems."""
    done, call, begin = 0, 0, time.process_time()
    while time.process_time() - begin < seconds:
        done += evaluate(call)
        call += 1
    return done / (time.process_time() - begin)


def lines(
    hidden: str, system: str, dtype_name: str, seconds: float
) -> Iterator[dict[str, str | float]]:
    """The table's lines of a model and a system."""
    dtype = getattr(torch, dtype_name)
    model = random_model(hidden, dtype)
    start = made_start(system)
    fast = BatchedMace(model)
    assert fast._fast is not None, "this model would go through MACE's own forward"  # noqa: S101, SLF001
    calculator = MACECalculator(models=[model], device="cpu", default_dtype=dtype_name)
    frames = shaken(start, 16, SEED)

    def by_ase(call: int) -> int:
        atoms = frames[call % len(frames)]
        calculator.calculate(atoms, properties=["energy", "forces"])
        return 1

    by_ase(0)
    expected = calculator.results["forces"]
    device = torch.device("cpu")
    alone = fast(ts.io.atoms_to_state([frames[0]], device, dtype))
    difference = float(np.abs(alone["forces"].numpy() - expected).max())
    for batch in BATCHES[system]:
        states = [
            ts.io.atoms_to_state(shaken(start, batch, SEED + i), device, dtype) for i in range(4)
        ]

        def by_batch(call: int, states: list[Any] = states, batch: int = batch) -> int:
            fast(states[call % len(states)])
            return batch

        by_batch(0)
        rounds = []
        for _ in range(ROUNDS):
            ase = per_cpu_second(by_ase, seconds)
            rounds.append((per_cpu_second(by_batch, seconds), ase))
        ratios = [ours / ase for ours, ase in rounds]
        yield {
            "model": hidden,
            "system": system,
            "batch": batch,
            "dtype": dtype_name,
            "evaluations_per_cpu_second": statistics.median(ours for ours, _ in rounds),
            "evaluations_per_cpu_second_ase": statistics.median(ase for _, ase in rounds),
            "ratio_vs_ase": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "force_difference_eV_per_A": difference,
        }


def main() -> int:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models",
        nargs="+",
        help=f"hidden irreps, with {FOUNDATION} where so; default {' '.join(MODELS)}",
    )
    parser.add_argument("--systems", nargs="+", choices=USUAL, default=USUAL)
    parser.add_argument("--dtype", nargs="+", choices=("float32", "float64"), default=["float32"])
    parser.add_argument("--seconds", type=float, default=4.0, help="CPU time of each measurement")
    parser.add_argument("--quick", action="store_true", help="two models, a second each")
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    chosen = arguments.models or (QUICK if arguments.quick else MODELS)
    seconds = 1.0 if arguments.quick else arguments.seconds
    print(
        f"r_max {R_MAX_A} Å (foundation: {FOUNDATION_R_MAX_A}), correlation {CORRELATION}, two "
        "layers; evaluations per CPU-second "
        f"on one thread of {platform.processor() or platform.machine()}"
    )
    head = ("model", "system", "batch", "dtype", "ours", "ASE", "ratio (least–greatest)", "ΔF eV/Å")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    rows = []
    for hidden in chosen:
        for dtype in arguments.dtype:
            for system in arguments.systems:
                for row in lines(hidden, system, dtype, seconds):
                    rows.append(row)
                    print(
                        f"| {hidden} | {system} | {row['batch']} | {dtype} "
                        f"| {row['evaluations_per_cpu_second']:.4g} "
                        f"| {row['evaluations_per_cpu_second_ase']:.3g} "
                        f"| {row['ratio_vs_ase']:.1f} ({row['low']:.1f}–{row['high']:.1f}) "
                        f"| {row['force_difference_eV_per_A']:.1e} |",
                        flush=True,
                    )
    if arguments.json:
        versions = {name: version(name) for name in ("mace-torch", "torch", "numba", "ase")}
        files.write_json(arguments.json, {"versions": versions, "seed": SEED, "lines": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
