"""How many exact states does eigenvector continuation need, and MACE, for the same molecule?

A water molecule in a small basis set. The truth is full configuration interaction. Both learn the
same geometries of GFN2-xTB dynamics at 300, 600 and 1000 K: continuation their states, MACE (16
scalar channels, correlation 2) their energies and forces. Errors are those of 200 other frames of
the same dynamics, and of a scan of one O–H bond that neither saw.

    python benchmarks/continuation.py --json continuation.json     some minutes, sto-3g
    python benchmarks/continuation.py --basis 6-31g --frames 20    hours

Keys of each line in the JSON: `states`, `way`, `energy_mae_meV`, `energy_largest_meV`,
`forces_mae_meV_per_A`, `scan_largest_meV`, `least_error_meV` (continuation is never below the exact
energy), `seconds_per_frame`; beside them `exact_seconds_per_frame`.

Not for: choosing training geometries by their errors (`halcyon states` does).
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.units import Hartree
from rich.console import Console
from rich.table import Table

from halcyon import files
from halcyon.config import ModelSettings, TeacherSettings, TrainingSettings, XtbForceField
from halcyon.errors import InputError
from halcyon.labels.reference.evc.continuation import Continuation
from halcyon.models import mace
from halcyon.models.training import Recipe, train
from halcyon.teacher.forcefield import make_teacher
from halcyon.teacher.sampling import sample

SEED = 20261129
STATES = (1, 2, 4, 8, 12)
SPARE = 10
"""Frames for states that depend linearly on earlier ones, which are left out."""
TEMPERATURES_K = [300.0, 600.0, 1000.0]
SCAN_A = np.linspace(0.75, 1.9, 24)
STEPS = 2000
"""Of MACE's optimiser."""


def water() -> Atoms:
    """A molecule at rest, with its state."""
    atoms = molecule("H2O")
    atoms.info = {"charge": 0, "multiplicity": 1, "structure": "water"}
    return atoms


def visited(number: int) -> list[Atoms]:
    """Frames of dynamics."""
    start = water()
    teacher = make_teacher(XtbForceField(kind="xtb", method="GFN2-xTB"), start, [(0, 1), (0, 2)])
    settings = TeacherSettings(
        temperatures_K=TEMPERATURES_K,
        md_frames=number,
        md_interval_fs=20.0,
        displaced_frames=0,
        stretched_frames=0,
        contact_frames=0,
        dissociated_frames=0,
    )
    frames, _ = sample(teacher, start, settings, seed=SEED)
    for frame in frames:
        frame.info = dict(start.info)
    order = np.random.default_rng(SEED).permutation(len(frames))
    return [frames[i] for i in order]


def scanned() -> list[Atoms]:
    """One bond from short to nearly broken."""
    frames = []
    for distance in SCAN_A:
        atoms = water()
        atoms.set_distance(0, 1, distance, fix=0)
        frames.append(atoms)
    return frames


class Exact:
    """Frames with their exact energies, eV, and forces, eV/Å."""

    def __init__(self, continuation: Continuation, frames: Sequence[Atoms]) -> None:
        """Compute."""
        begun = time.monotonic()
        self.frames = [*frames]
        self.states = [continuation.exact(frame)[0] for frame in frames]
        self.seconds = (time.monotonic() - begun) / len(frames)
        self.energies = np.array([state.energy for state in self.states]) * Hartree
        self.forces = np.array(
            [continuation.forces_of(*pair) for pair in zip(frames, self.states, strict=True)]
        )

    def labelled(self, begin: int, end: int) -> list[Atoms]:
        """Frames as labels."""
        frames = []
        for index in range(begin, end):
            frame = self.frames[index].copy()
            frame.info = self.frames[index].info | {"energy": self.energies[index]}
            frame.arrays["forces"] = self.forces[index]
            frames.append(frame)
        return frames


def errors(
    energies: np.ndarray, forces: np.ndarray, scan: np.ndarray, *, test: Exact, bond: Exact
) -> dict[str, float]:
    """Of energies relative to nothing: those of continuation and labels are absolute."""
    off = 1000 * (energies - test.energies)
    return {
        "energy_mae_meV": float(np.abs(off).mean()),
        "energy_largest_meV": float(np.abs(off).max()),
        "least_error_meV": float(off.min()),
        "forces_mae_meV_per_A": 1000 * float(np.abs(forces - test.forces).mean()),
        "scan_largest_meV": 1000 * float(np.abs(scan - bond.energies).max()),
    }


def by_continuation(grown: Continuation, test: Exact, bond: Exact) -> dict[str, float]:
    """Errors of interpolation."""
    begun = time.monotonic()
    results = [grown.results(frame)[0] for frame in test.frames]
    seconds = (time.monotonic() - begun) / len(results)
    return errors(
        np.array([result.energy for result in results]),
        np.array([result.forces for result in results]),
        np.array([grown.energy(frame) for frame in bond.frames]),
        test=test,
        bond=bond,
    ) | {"seconds_per_frame": seconds}


def by_mace(learned: list[Atoms], check: list[Atoms], test: Exact, bond: Exact) -> dict[str, float]:
    """Errors of a model that learned the same frames; `check` chooses the epoch."""
    recipe = Recipe(
        elements=[1, 8],
        model=ModelSettings(),
        fit=TrainingSettings(epochs=1, updates=(STEPS, STEPS), batch_size=4, learning_rate=0.01),
        seed=SEED,
        device="cpu",
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        train(learned, check, recipe, out=work / "m.model", work=work / "work")
        model = mace.load(work / "m.model", dtype="float64")
    begun = time.monotonic()
    predicted = mace.evaluate(model, test.frames)
    seconds = (time.monotonic() - begun) / len(test.frames)
    scan = mace.evaluate(model, bond.frames)
    return errors(
        predicted.energy,
        np.array(predicted.forces),
        scan.energy,
        test=test,
        bond=bond,
    ) | {"seconds_per_frame": seconds}


def main() -> int:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--basis", default="sto-3g", help="by PySCF's name (default sto-3g)")
    parser.add_argument("--frames", type=int, default=200, help="to test on (default 200)")
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    most, checked = max(STATES) + SPARE, 10
    frames = visited(arguments.frames + most + checked + 30)
    begin = Continuation.begin(water(), arguments.basis)
    test = Exact(begin, frames[most + checked :][: arguments.frames])
    learned = Exact(begin, frames[: most + checked])
    bond = Exact(begin, scanned())
    check = learned.labelled(most, most + checked)
    taken: list[int] = []
    lines: list[dict[str, Any]] = []
    grown = begin
    for index in range(most):
        try:
            grown = grown.with_states(learned.frames[index], [learned.states[index]])
        except InputError:  # it depends linearly on the others
            continue
        taken.append(index)
        if (states := len(taken)) not in STATES:
            continue
        frames = [learned.labelled(each, each + 1)[0] for each in taken]
        rows = {
            "continuation": by_continuation(grown, test, bond),
            "MACE": by_mace(frames, check, test, bond),
        }
        print(f"{states} states: {rows}", file=sys.stderr, flush=True)
        lines += [{"states": states, "way": way} | row for way, row in rows.items()]
    table = Table(
        title=f"water, {arguments.basis}, {len(test.frames)} frames of {TEMPERATURES_K} K"
    )
    for heading in (
        "states",
        "way",
        "energy MAE, meV",
        "largest",
        "forces MAE, meV/Å",
        "O–H scan, largest, meV",
        "ms/frame",
    ):
        table.add_column(heading)
    for line in lines:
        table.add_row(
            str(line["states"]),
            line["way"],
            *(
                f"{line[key]:.3g}"
                for key in (
                    "energy_mae_meV",
                    "energy_largest_meV",
                    "forces_mae_meV_per_A",
                    "scan_largest_meV",
                )
            ),
            f"{1000 * line['seconds_per_frame']:.3g}",
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print(f"an exact state takes {test.seconds:.3g} s")
    if arguments.json:
        content = {
            "basis": arguments.basis,
            "frames": len(test.frames),
            "seed": SEED,
            "exact_seconds_per_frame": test.seconds,
            "lines": lines,
        }
        files.write_json(arguments.json, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
