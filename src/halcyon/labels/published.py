"""Published sets of labelled structures: extended XYZ or npz, in the units they come in.

    from pathlib import Path
    from halcyon.config import DatasetLayout
    from halcyon.labels.published import read_set

    layout = DatasetLayout(energy_unit="kcal/mol")
    for frame in read_set(Path("set.npz"), layout):
        print(frame.info["energy"])  # eV

Not for: Halcyon's own files (`frames`), or storing labels (`store`).
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.io import iread

from halcyon.config import DatasetLayout
from halcyon.errors import InputError

ENERGY = {
    "eV": 1.0,
    "meV": 1e-3,
    "Ha": units.Hartree,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
}
LENGTH = {"A": 1.0, "bohr": units.Bohr}
XYZ = {".xyz", ".extxyz"}


def read_set(path: Path, layout: DatasetLayout) -> Iterator[Atoms]:
    """Frames of a published set, in eV and Å.

    Args:
        path: extended XYZ or npz, by its suffix.
        layout: names and units.

    Yields:
        Frames with `info` keys charge, multiplicity and energy, and the array forces.

    Raises:
        InputError: names the file, the frame or array, and what was expected.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".npz":
        frames = _read_npz(path, layout)
    elif path.suffix in XYZ:
        frames = _read_xyz(path, layout)
    else:
        raise InputError(f"{path}: expected a file .npz, .xyz or .extxyz")
    length = LENGTH[layout.positions_unit]
    per_energy, per_length = layout.forces_unit or (layout.energy_unit, layout.positions_unit)
    for number, (frame, energy, forces) in enumerate(frames):
        frame.info.setdefault("charge", layout.charge)
        electrons = int(frame.numbers.sum()) - frame.info["charge"]
        spin = electrons % 2 + 1 if layout.multiplicity == "lowest" else layout.multiplicity
        frame.info.setdefault("multiplicity", spin)
        frame.set_cell(frame.cell.array * length)
        frame.positions *= length
        frame.info["energy"] = float(energy) * ENERGY[layout.energy_unit]
        frame.arrays["forces"] = np.array(forces, float) * ENERGY[per_energy] / LENGTH[per_length]
        for name, values in (
            ("position", frame.positions),
            ("energy", frame.info["energy"]),
            ("force", frame.arrays["forces"]),
        ):
            if not np.isfinite(values).all():
                raise InputError(f"{path}: frame {number}: a number is not finite ({name})")
        yield frame


def _read_npz(path: Path, layout: DatasetLayout) -> Iterator[tuple[Atoms, float, np.ndarray]]:
    names = {
        "numbers_key": layout.numbers_key,
        "positions_key": layout.positions_key,
        "energy_key": layout.energy_key or "E",
        "forces_key": layout.forces_key or "F",
    }
    try:
        with np.load(path) as content:
            if missing := {k: name for k, name in names.items() if name not in content.files}:
                raise InputError(
                    f"{path}: no array {', '.join(f'{n!r} ({k})' for k, n in missing.items())}; "
                    f"there are {', '.join(content.files)}"
                )
            numbers, positions, energies, forces = (content[name] for name in names.values())
            charges, multiplicities = (
                content[name].ravel() if name in content.files else None
                for name in ("charge", "multiplicity")
            )
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: not a readable npz file ({error})") from error
    if positions.ndim != 3 or positions.shape[2] != 3 or forces.shape != positions.shape:
        raise InputError(
            f"{path}: positions {positions.shape}, forces {forces.shape}: expected both as "
            "(frames, atoms, 3)"
        )
    number, atoms = positions.shape[:2]
    numbers = np.broadcast_to(numbers, (number, atoms)) if numbers.ndim == 1 else numbers
    if numbers.shape != (number, atoms) or energies.size != number:
        raise InputError(
            f"{path}: atomic numbers {numbers.shape}, energies {energies.shape}: expected "
            f"{(number, atoms)} and {(number,)}"
        )
    for i, energy in enumerate(energies.ravel()):
        real = numbers[i] > 0
        frame = Atoms(numbers[i][real], positions=positions[i][real])
        if charges is not None:
            frame.info["charge"] = int(charges[i % len(charges)])
        if multiplicities is not None:
            frame.info["multiplicity"] = int(multiplicities[i % len(multiplicities)])
        yield frame, energy, forces[i][real]


def _read_xyz(path: Path, layout: DatasetLayout) -> Iterator[tuple[Atoms, float, np.ndarray]]:
    frames = iread(path, format="extxyz")
    number = -1
    while True:
        number += 1
        try:
            entry = next(frames)
        except StopIteration:
            break
        except Exception as error:  # the reader's exceptions have no common base class
            raise InputError(f"{path}: frame {number}: not extended XYZ ({error})") from error
        # The reader hands entries with usual names over as results of a calculator.
        results: dict[str, Any] = dict(entry.calc.results) if entry.calc else {}
        energy = (results | entry.info).get(layout.energy_key or "energy")
        forces = (results | entry.arrays).get(layout.forces_key or "forces")
        if energy is None or forces is None:
            raise InputError(
                f"{path}: frame {number}: no {'energy' if energy is None else 'forces'}; there "
                f"are {', '.join([*entry.info, *entry.arrays, *results])} (energy_key, forces_key)"
            )
        frame = Atoms(entry.numbers, positions=entry.positions, cell=entry.cell, pbc=entry.pbc)
        for name in ("charge", "multiplicity"):
            if name in entry.info:
                frame.info[name] = int(entry.info[name])
        yield frame, energy, forces
