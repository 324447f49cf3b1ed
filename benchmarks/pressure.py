"""Constant pressure: how right the stress of a trained model is, and what it does to the volume.

For each system, a reference potential labels frames of its own dynamics at several volumes, and a
model learns energies, forces and stresses of some of them. Other frames are then brought to -6, -3,
0, +3 and +6 % of the volume (molecules move as rigid bodies, atoms of a crystal with the cell), and
the model is compared with the reference there:

- `stress_mae_GPa`: mean absolute error of the six numbers of the stress.
- `volume_error_percent`: by how much the volume is wrong at which the model has the reference's
  pressure of 0 %, from parabolas through the mean pressures.
- `bulk_modulus_error_percent`: of -V dP/dV at 0 %, from the same parabolas. Where it is measured on
  the same frames at all volumes, as here, it is that of the energy, without the thermal part.

Intervals are 95 %, by resampling frames. Systems: `copper` (EMT, an ASE calculator), `water` (eight
molecules, GFN1-xTB). Models are small: the numbers are about the road, not about what is possible.

    python benchmarks/pressure.py --systems copper --quick    a minute
    python benchmarks/pressure.py --json pressure.json        both systems

Not for: the density of a liquid in a long run at constant pressure.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from rich.console import Console
from rich.table import Table
from scipy.spatial.transform import Rotation
from tblite.ase import TBLite

from halcyon.config import (
    AseReference,
    FitSettings,
    ModelSettings,
    ReferenceSettings,
    XtbReference,
)
from halcyon.labels.reference import make_reference
from halcyon.labels.stress import GPA, pressure
from halcyon.models import mace
from halcyon.models.fit import fit
from halcyon.models.training import Recipe

VOLUMES_PERCENT = (-6.0, -3.0, 0.0, 3.0, 6.0)
LEARNED_PERCENT = (-9.0, -4.5, 0.0, 4.5, 9.0)
"""Volumes of the dynamics whose frames are learned."""
SEED = 7
RESAMPLES = 1000


@dataclass(frozen=True)
class System:
    """What is simulated.

    Attributes:
        reference: labels frames.
        calculator: makes the same potential as an ASE calculator, for dynamics.
        start: the box at 0 %.
        molecule_atoms: atoms of a molecule, which stay together; 1: each atom moves with the cell.
        temperature_K: of the dynamics.
        timestep_fs: of the dynamics.
        cutoff_A: of the model.
    """

    reference: ReferenceSettings
    calculator: Callable[[], object]
    start: Callable[[np.random.Generator], Atoms]
    molecule_atoms: int
    temperature_K: float
    timestep_fs: float
    cutoff_A: float


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def copper(_random: np.random.Generator) -> Atoms:
    """Eight primitive cells of copper."""
    return bulk("Cu", a=3.61) * (2, 2, 2)


def water(random: np.random.Generator) -> Atoms:
    """Eight molecules on a lattice, turned at random, at 1 g/cm³."""
    box, edge = Atoms(), 6.21
    for number in range(8):
        place = (np.array(np.unravel_index(number, (2, 2, 2))) + 0.5) * edge / 2
        turned = molecule("H2O")
        turned.positions -= turned.get_center_of_mass()
        turned.positions = Rotation.random(random_state=random).apply(turned.positions) + place
        box += turned
    box.set_cell([edge] * 3)
    box.pbc = True
    return box


SYSTEMS = {
    "copper": System(
        reference=AseReference(backend="ase", calculator="ase.calculators.emt.EMT"),
        calculator=EMT,
        start=copper,
        molecule_atoms=1,
        temperature_K=600.0,
        timestep_fs=3.0,
        cutoff_A=4.5,
    ),
    "water": System(
        reference=XtbReference(backend="xtb", method="GFN1-xTB", accuracy=1.0),
        calculator=lambda: TBLite(method="GFN1-xTB", accuracy=1.0, verbosity=0),
        start=water,
        molecule_atoms=3,
        temperature_K=400.0,
        timestep_fs=1.0,
        cutoff_A=4.0,
    ),
}


def scaled(atoms: Atoms, percent: float, molecule_atoms: int) -> Atoms:
    """A frame whose volume is so many per cent larger; molecules keep their shape."""
    factor = (1 + percent / 100) ** (1 / 3)
    larger = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell.array * factor, pbc=True)
    centres = atoms.positions.reshape(-1, molecule_atoms, 3).mean(axis=1)
    larger.positions += np.repeat((factor - 1) * centres, molecule_atoms, axis=0)
    larger.info = {"charge": 0, "multiplicity": 1, "structure": "box"}
    return larger


def dynamics(system: System, percent: float, frames: int, *, seed: int) -> list[Atoms]:
    """Frames of the reference's own dynamics at a volume, without labels."""
    random = np.random.default_rng(seed)
    atoms = scaled(system.start(random), percent, system.molecule_atoms)
    atoms.calc = system.calculator()
    atoms.set_momenta(
        random.normal(size=(len(atoms), 3))
        * np.sqrt(atoms.get_masses() * units.kB * system.temperature_K)[:, None]
    )
    run = Langevin(
        atoms,
        system.timestep_fs * units.fs,
        temperature_K=system.temperature_K,
        friction=0.02 / units.fs,
        rng=random,
        fixcm=False,
    )
    run.run(40)
    kept = []
    for _ in range(frames):
        run.run(10)
        kept.append(scaled(atoms, 0.0, 1))
    return kept


def labelled(frames: Sequence[Atoms], reference: ReferenceSettings) -> list[Atoms]:
    """The frames with energy, forces and stress."""
    with tempfile.TemporaryDirectory() as work:
        for frame, record in zip(
            frames, make_reference(reference).label(frames, Path(work), 1), strict=True
        ):
            frame.info |= {"energy": record.energy, "stress": list(record.stress or ())}
            if record.forces is None:
                raise SystemExit(f"a frame was not labelled: {record.message}")
            frame.arrays["forces"] = record.forces
    return list(frames)


def measured(name: str, *, quick: bool) -> dict[str, Any]:
    """Train a model of a system and compare its pressures with the reference's."""
    system = SYSTEMS[name]
    per_volume, of_test = (4, 4) if quick else (14, 12)
    learned = [
        frame
        for number, percent in enumerate(LEARNED_PERCENT)
        for frame in dynamics(system, percent, per_volume, seed=SEED + number)
    ]
    labelled(learned, system.reference)
    validation, train = learned[::7], [f for i, f in enumerate(learned) if i % 7]
    starts = dynamics(system, 0.0, of_test, seed=SEED + 100)
    tests = [
        labelled([scaled(f, percent, system.molecule_atoms) for f in starts], system.reference)
        for percent in VOLUMES_PERCENT
    ]
    recipe = Recipe(
        elements=sorted({int(z) for z in starts[0].numbers}),
        model=ModelSettings(channels=8, r_max_A=system.cutoff_A),
        fit=FitSettings(epochs=20 if quick else 60, learning_rate=0.02, batch_size=4),
        seed=SEED,
        device="cpu",
    )
    sets = {"train": train, "validation": validation, "test": tests[2]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.model"
        metrics = fit(sets, recipe, out=path, work=Path(folder), say=lambda _line: None)
        predicted = [mace.evaluate(path, frames, device="cpu").stress for frames in tests]
    of_label = np.array([[frame.info["stress"] for frame in frames] for frames in tests])
    of_model = np.array(predicted, dtype=float)
    return compared(of_label, of_model, starts[0].get_volume()) | {
        "atoms": len(starts[0]),
        "train_frames": len(train),
        "test_frames": len(starts),
        "volumes_percent": VOLUMES_PERCENT,
        "temperature_K": system.temperature_K,
        "forces_mae_meV_per_A": metrics.test.forces_mae_meV_per_A,
        "training_s": metrics.seconds,
        "seed": SEED,
    }


def compared(of_label: np.ndarray, of_model: np.ndarray, volume_A3: float) -> dict[str, Any]:
    """Errors of the model's stresses, with intervals.

    Args:
        of_label: stresses of the reference, shape (volumes, frames, 6), eV/Å³.
        of_model: of the model, likewise.
        volume_A3: at 0 %.
    """
    random = np.random.default_rng(SEED)
    frames = of_label.shape[1]
    draws = [np.arange(frames), *random.integers(0, frames, (RESAMPLES, frames))]
    errors = np.array([_errors(of_label[:, d], of_model[:, d], volume_A3) for d in draws])
    low, high = np.quantile(errors[1:], (0.025, 0.975), axis=0)
    names = ("stress_mae_GPa", "volume_error_percent", "bulk_modulus_error_percent")
    result: dict[str, object] = {
        name: asdict(Estimate(*map(float, numbers)))
        for name, *numbers in zip(names, errors[0], low, high, strict=True)
    }
    for who, stresses in (("reference", of_label), ("model", of_model)):
        result[f"{who}_pressure_GPa"] = [
            float(np.mean([pressure(stress) for stress in at_volume])) for at_volume in stresses
        ]
    return result


def _errors(of_label: np.ndarray, of_model: np.ndarray, volume_A3: float) -> list[float]:
    """Stress MAE, GPa; error of the volume and of the bulk modulus, per cent."""
    volumes = volume_A3 * (1 + np.array(VOLUMES_PERCENT) / 100)
    curves = [
        np.polynomial.Polynomial.fit(volumes, -stresses[..., :3].mean(axis=(1, 2)) / GPA, 2)
        for stresses in (of_label, of_model)
    ]
    slopes = [curve.deriv()(volume_A3) for curve in curves]
    candidates = volume_A3 * np.linspace(0.85, 1.15, 30_001)
    nearest = candidates[np.abs(curves[1](candidates) - curves[0](volume_A3)).argmin()]
    return [
        float(np.abs(of_model - of_label).mean() / GPA),
        float(100 * (nearest / volume_A3 - 1)),
        float(100 * (slopes[1] / slopes[0] - 1)),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", nargs="+", choices=[*SYSTEMS], default=[*SYSTEMS])
    parser.add_argument("--quick", action="store_true", help="few frames and epochs")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    table = Table(title="Model against reference at -6, -3, 0, +3, +6 % volume")
    for heading in ("system", "stress MAE, GPa", "volume error, %", "bulk modulus error, %"):
        table.add_column(heading)
    cases = {}
    for name in options.systems:
        case = cases[name] = measured(name, quick=options.quick)
        numbers = [case[key] for key in case if key.endswith(("mae_GPa", "error_percent"))]
        table.add_row(
            name, *(f"{n['value']:.2g} ({n['low']:.2g} to {n['high']:.2g})" for n in numbers)
        )
    Console().print(table)
    if options.json:
        keys = ("stress_mae_GPa", "volume_error_percent", "bulk_modulus_error_percent")
        content = {key: {name: case[key] for name, case in cases.items()} for key in keys}
        options.json.write_text(json.dumps(content | {"cases": cases}, indent=2) + "\n")


if __name__ == "__main__":
    main()
