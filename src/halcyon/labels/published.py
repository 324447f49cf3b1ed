"""Sets of labelled structures that others made, in the units and under the names they come with.

    from pathlib import Path
    from halcyon.config import DatasetLayout
    from halcyon.labels.published import read_set

    layout = DatasetLayout(energy_unit="kcal/mol")
    for frame in read_set(Path("set.npz"), layout):
        print(frame.info["energy"])  # eV

Names that other tools use are known. Where two of them stand side by side and differ, nothing is
guessed: the message has both and the key of the layout that names one.

Not for: the formats of files (`published_files`), or storing labels (`store`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from halcyon.config import DatasetLayout
from halcyon.errors import InputError
from halcyon.labels.finite_difference import SCALE_OFF, StressScale, stress_in_set
from halcyon.labels.published_files import XYZ, Entry, entries
from halcyon.labels.stress import UNITS, converted, is_possible, voigt
from halcyon.systems import headers

__all__ = ["XYZ", "check_stress", "read_set"]

ENERGY = {
    "eV": 1.0,
    "meV": 1e-3,
    "Ha": units.Hartree,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
}
LENGTH = {"A": 1.0, "bohr": units.Bohr}
ENERGIES = (
    "energy",
    "E",
    "energies",
    "REF_energy",
    "dft_energy",
    "free_energy",
    "total_energy",
    "potential_energy",
)
"""Names of energies that tools use, in any case; ASE's `free_energy` is the one that its forces
belong to."""
FORCES = ("forces", "F", "force", "REF_forces", "REF_force", "dft_forces", "dft_force")
"""Names of forces that tools use, in any case."""


def read_set(
    path: Path, layout: DatasetLayout, leave_out: Callable[[str], None] | None = None
) -> Iterator[Atoms]:
    """Frames of a set, in eV and Å.

    Args:
        path: extended XYZ, npz, ASE database or Parquet of Halcyon, by its suffix.
        layout: names and units.
        leave_out: called with the reason of a frame with a number that is not finite, which is
            left out; None: such a frame is an error.

    Yields:
        Frames with `info` keys charge, multiplicity and energy, and the array forces; where the
        set has a stress of the frame, also `stress`, eV/Å³, tension positive.

    Raises:
        InputError: names the file, the frame or array, and what was expected.
    """
    length = LENGTH[layout.positions_unit]
    per_energy, per_length = layout.forces_unit or (layout.energy_unit, layout.positions_unit)
    spin_readings: dict[str, int] = {}
    for number, entry in enumerate(entries(path, layout)):
        try:
            energy_name, energy = _energy(entry.header, layout)
            forces = _forces(entry, energy_name, layout)
            charge, spin = _state(entry, layout)
            if spin is not None and not spin.by_name:
                spin_readings.setdefault(spin.reading, number)
            _check_alike(spin_readings)
        except InputError as error:
            raise InputError(f"{path}: frame {number}: {error}") from None
        frame = entry.atoms
        electrons = int(frame.numbers.sum()) - charge
        lowest = electrons % 2 + 1
        given = lowest if layout.multiplicity == "lowest" else layout.multiplicity
        frame.info = {"charge": charge, "multiplicity": spin.multiplicity if spin else given}
        frame.set_cell(frame.cell.array * length)
        frame.positions *= length
        frame.info["energy"] = energy * ENERGY[layout.energy_unit]
        frame.arrays["forces"] = forces * ENERGY[per_energy] / LENGTH[per_length]
        stress = entry.header.get(layout.stress_key) if layout.stress_key else None
        stress = None if stress is None else np.asarray(stress, dtype=float)
        if stress is not None and is_possible(frame) and not np.isnan(stress).all():
            place = f"{path}: frame {number}"
            frame.info["stress"] = _stress(stress, layout, frame.get_volume(), place)
        not_finite = _not_finite(frame)
        if not_finite and leave_out is None:
            raise InputError(f"{path}: frame {number}: a number is not finite ({not_finite})")
        if not_finite and leave_out is not None:
            leave_out(f"a number is not finite ({not_finite})")
            continue
        yield frame


def _not_finite(frame: Atoms) -> str:
    """What of a frame has a number that is not finite; empty: nothing."""
    values = {
        "stress": frame.info.get("stress", 0.0),
        "position": frame.positions,
        "energy": frame.info["energy"],
        "force": frame.arrays["forces"],
    }
    return next((name for name, of in values.items() if not np.isfinite(of).all()), "")


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


def _energy(header: Mapping[str, Any], layout: DatasetLayout) -> tuple[str, float]:
    """Name and value of the energy, in the file's unit."""
    candidates = _candidates(header, layout.energy_key, ENERGIES)
    if not layout.energy_key:  # E may be an electric field
        candidates = {n: v for n, v in candidates.items() if np.size(v) == 1}
    if not candidates:
        raise InputError(f"no energy; there are {', '.join(header) or 'none'} (energy_key)")
    values = {name: _number(name, value) for name, value in candidates.items()}
    (name, energy), *others = values.items()
    if any(abs(other - energy) > 1e-6 + 1e-9 * abs(energy) for _, other in others):
        words = ", ".join(f"{name} = {value:.10g}" for name, value in values.items())
        raise InputError(
            f"{words}: which is the label? Expected one energy, or equal ones: name that which the "
            "forces belong to (energy_key); of ASE's, that is free_energy"
        )
    return name, energy


def _forces(entry: Entry, energy_name: str, layout: DatasetLayout) -> np.ndarray:
    """The forces that belong to an energy, in the file's unit, shape (N, 3)."""
    candidates = _candidates(entry.columns, layout.forces_key, FORCES)
    shape = (len(entry.atoms), 3)
    forces = {name: np.asarray(values) for name, values in candidates.items()}
    forces = {n: values.astype(float) for n, values in forces.items() if values.shape == shape}
    if not forces:
        available = [*entry.header, *entry.columns]
        raise InputError(
            f"no forces of the shape {shape}; there are {', '.join(available)} (forces_key)"
        )
    # REF_forces belong to REF_energy, and where `energy` was named, `forces` to it.
    prefix = energy_name.lower().removesuffix("energy")
    alike = [n for n in forces if n.lower() in (f"{prefix}forces", f"{prefix}force")]
    if alike and (prefix or layout.energy_key):
        return forces[alike[0]]
    (name, first), *others = forces.items()
    for other, values in others:
        if not np.allclose(first, values, rtol=1e-6, atol=1e-6):
            raise InputError(
                f"{name} and {other} differ by up to {np.abs(first - values).max():.4g}: which are "
                "the forces? Name them (forces_key)"
            )
    return first


def _state(entry: Entry, layout: DatasetLayout) -> tuple[int, headers.Spin | None]:
    """Total charge, e, and the spin if the entry has one."""
    charge = headers.charge_of(entry.header, layout.charge_key)
    assumed = charge is None and "charge" not in layout.model_fields_set
    if charge is None:
        charge = layout.charge
    if assumed:
        _check_partial_charges(entry, charge)
    if layout.spin_is == "nothing":
        return charge, None
    electrons = int(entry.atoms.numbers.sum()) - charge
    spin = headers.spin_of(entry.header, electrons, layout.spin_key, layout.spin_is or "")
    if spin and spin.by_parity and assumed and spin.multiplicity > electrons % 2 + 1:
        number = headers.readings({spin.key: entry.header[spin.key]})
        words = ", or ".join(f"{w} → multiplicity {m}" for w, m in number.items())
        raise InputError(
            f"{words}: which depends on the charge, and none is given. Set `charge`, or what the "
            "number is (spin_is)"
        )
    return charge, spin


def _check_partial_charges(entry: Entry, charge: int) -> None:
    """Refuse partial charges that add up to another charge than the default."""
    frame = entry.atoms.copy()
    for name, values in entry.columns.items():
        if name in headers.PARTIAL_CHARGES:
            frame.arrays[name] = values
    partial = headers.sum_of_partial_charges(frame)
    if partial is None:
        return
    name, total = partial
    if round(total) != charge and abs(total - round(total)) < headers.SUM_TOLERANCE:
        raise InputError(
            f"the column {name} adds up to {total:.2f} e, and no total charge is given: set "
            f"`charge: {round(total)}`, or `charge: {charge}` if the column means something else"
        )


def _check_alike(spin_readings: Mapping[str, int]) -> None:
    """Refuse a file whose numbers are 2S in one frame and 2S+1 in another: a charge is missing."""
    if len(spin_readings) > 1:
        words = ", ".join(f"{r} in frame {n}" for r, n in spin_readings.items())
        raise InputError(
            f"by the numbers of electrons its spin is {words}: a file means one of them. Is a "
            "charge missing or wrong? Say what the number is (spin_is)"
        )


def _candidates(values: Mapping[str, Any], key: str, names: tuple[str, ...]) -> dict[str, Any]:
    """What stands under the key, or without one under any of the names, in their order."""
    if key:
        return {key: values[key]} if key in values else {}
    lower = {str(name).lower(): name for name in reversed([*values])}
    known = [lower[name.lower()] for name in names if name.lower() in lower]
    return {name: values[name] for name in known if values[name] is not None}


def _number(name: str, value: Any) -> float:
    try:
        return float(np.asarray(value, dtype=float).reshape(()))
    except (TypeError, ValueError):
        raise InputError(f"{name} = {value!r}: expected one number (energy_key)") from None
