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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from ase import Atoms, units
from ase.io import iread

from halcyon.config import DatasetLayout
from halcyon.errors import InputError
from halcyon.labels.finite_difference import SCALE_OFF, StressScale, stress_in_set
from halcyon.labels.stress import UNITS, converted, is_possible, voigt

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
        Frames with `info` keys charge, multiplicity and energy, and the array forces; where the
        set has a stress of the frame, also `stress`, eV/Å³, tension positive.

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
    for number, (frame, energy, forces, stress) in enumerate(frames):
        frame.info.setdefault("charge", layout.charge)
        electrons = int(frame.numbers.sum()) - frame.info["charge"]
        spin = electrons % 2 + 1 if layout.multiplicity == "lowest" else layout.multiplicity
        frame.info.setdefault("multiplicity", spin)
        frame.set_cell(frame.cell.array * length)
        frame.positions *= length
        frame.info["energy"] = float(energy) * ENERGY[layout.energy_unit]
        frame.arrays["forces"] = np.array(forces, float) * ENERGY[per_energy] / LENGTH[per_length]
        if stress is not None and is_possible(frame) and not np.isnan(stress).all():
            frame.info["stress"] = _stress(
                stress, layout, frame.get_volume(), f"{path}: frame {number}"
            )
        for name, values in (
            ("stress", frame.info.get("stress", 0.0)),
            ("position", frame.positions),
            ("energy", frame.info["energy"]),
            ("force", frame.arrays["forces"]),
        ):
            if not np.isfinite(values).all():
                raise InputError(f"{path}: frame {number}: a number is not finite ({name})")
        yield frame


_Entry: TypeAlias = tuple[Atoms, float, np.ndarray, np.ndarray | None]
"""A frame with energy, forces and stress as the file has them."""


def _stress(stress: np.ndarray, layout: DatasetLayout, volume: float, place: str) -> list[float]:
    """Six numbers, eV/Å³, tension positive, of a stress as its file has it.

    Args:
        stress: 6 or 9 numbers.
        layout: unit, sign and order.
        volume: of the cell, Å³.
        place: file and frame, for messages.

    Raises:
        InputError: another number of values.
    """
    if stress.size == 9:
        six = np.array(voigt(stress.reshape(3, 3)))
    elif stress.size == 6:
        six = stress.ravel()
        if layout.stress_order == "xx yy zz xy yz zx":
            six = six[[0, 1, 2, 4, 5, 3]]
    else:
        raise InputError(
            f"{place}: {layout.stress_key} has {stress.size} values; expected the 6 or 9 of a "
            "stress (stress_key)"
        )
    if layout.stress_sign == "pressure":
        six = -six
    if layout.stress_unit == "eV":
        return [float(value) for value in six / volume]
    return [float(value) for value in converted(six, layout.stress_unit)]


def check_stress(path: Path, layout: DatasetLayout, frames: Iterable[Atoms]) -> StressScale:
    """Hold the stresses of a set against its energies in different cells.

    Args:
        path: of the set, for the message.
        layout: how its stress was read, for the message.
        frames: as `read_set` yields them.

    Raises:
        InputError: the stress cannot be the slope of the energies; the message proposes what
            would be right.
    """
    result = stress_in_set(list(frames))
    if not result.wrong:
        return result
    scale = result.scale or 0.0
    now = UNITS.get(layout.stress_unit, 1.0)
    other = "pressure" if layout.stress_sign == "tension" else "tension"
    fitting = [
        f"stress_unit {unit}, stress_sign {layout.stress_sign if sign > 0 else other}"
        for unit, factor in UNITS.items()
        for sign in (1, -1)
        if layout.stress_unit != "eV" and abs(sign * factor - now * scale) < SCALE_OFF * factor
    ]
    advice = f"; {' or '.join(fitting)} would fit" if fitting else ""
    raise InputError(
        f"{path}: {layout.stress_key} (stress_key): between {result.pairs} pairs of frames in "
        f"different cells the energy changes by {scale:.3g} times what the stress says, expected "
        f"1; read in {layout.stress_unit}, {layout.stress_sign} positive{advice}"
    )


def _read_npz(path: Path, layout: DatasetLayout) -> Iterator[_Entry]:
    names = {
        "numbers_key": layout.numbers_key,
        "positions_key": layout.positions_key,
        "energy_key": layout.energy_key or "E",
        "forces_key": layout.forces_key or "F",
    }
    if layout.stress_key:
        raise InputError(
            f"{path}: stress_key = {layout.stress_key!r}: a set as npz has no cells, and without a "
            "cell there is no stress. Write it as extended XYZ, or remove stress_key"
        )
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
        yield frame, energy, forces[i][real], None


def _read_xyz(path: Path, layout: DatasetLayout) -> Iterator[_Entry]:
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
        stress = (results | entry.info).get(layout.stress_key) if layout.stress_key else None
        frame = Atoms(entry.numbers, positions=entry.positions, cell=entry.cell, pbc=entry.pbc)
        for name in ("charge", "multiplicity"):
            if name in entry.info:
                frame.info[name] = int(entry.info[name])
        yield frame, energy, forces, None if stress is None else np.asarray(stress, dtype=float)
