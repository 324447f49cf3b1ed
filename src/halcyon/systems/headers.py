"""Charge and spin of a structure, as other tools write them in a file's header.

    from halcyon.systems.headers import charge_of, spin_of

    header = {"total_charge": -1, "spin": 2}
    charge_of(header)                          # -1
    spin_of(header, electrons=11).multiplicity  # 2, since 2S = 2 needs an even number of electrons

Names that say what they mean are read by name. `spin` and `total_spin` are 2S+1 in some tools
(FAIR-Chem, ORB, MACE) and 2S in others (PySCF): the number of electrons decides, for 2S is odd
where it is odd, and 2S+1 is even. What remains open is refused, with the readings.

Not for: whether a structure can have that charge and spin (`structures.check_spin`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from rdkit import Chem, rdBase

from halcyon.errors import InputError
from halcyon.systems import isotopes

CHARGE_KEYS = ("charge", "total_charge", "net_charge", "tot_charge", "molecular_charge")
MULTIPLICITY_KEYS = ("multiplicity", "spin_multiplicity", "mult", "molecular_multiplicity")
UNPAIRED_KEYS = ("unpaired_electrons", "n_unpaired", "nunpaired", "uhf")
SPIN_KEYS = ("spin", "total_spin")
"""Names that do not say whether the number is 2S or 2S+1."""
PARTIAL_CHARGES = ("charges", "initial_charges", "charge", "partial_charges")
"""Columns of charges of atoms."""
WHOLE = 1e-3
"""A total charge or a spin may be so far from a whole number: it was a sum of rounded numbers."""
SUM_TOLERANCE = 0.05
"""Partial charges may add up to a whole number within this, e."""


@dataclass(frozen=True)
class Spin:
    """The spin of a header.

    Attributes:
        multiplicity: 2S+1.
        key: name that the header has it under.
        reading: `2S+1`, `2S` or `S`: what the number is.
        by_parity: whether only the number of electrons told 2S from 2S+1.
        by_name: whether the name, or the caller, said what the number is.
    """

    multiplicity: int
    key: str
    reading: str
    by_parity: bool = False
    by_name: bool = False


def charge_of(header: Mapping[str, Any], key: str = "") -> int | None:
    """Total charge, e; None: the header has none.

    Args:
        header: entries by name, e.g. `info` of a frame.
        key: name of the entry to read; by default all of `CHARGE_KEYS`, which must agree.

    Raises:
        InputError: it is no whole number, or two entries differ.
    """
    if key and key not in header:
        raise InputError(f"no entry {key!r} (charge_key); there are {_names(header)}")
    charges = {
        name: _whole(name, value, "the total charge in e")
        for name, value in _entries(header, (key,) if key else CHARGE_KEYS).items()
    }
    if len(set(charges.values())) > 1:
        raise InputError(
            f"{_pairs(charges)}: which is the total charge? Expected one, or equal ones: name it "
            "(charge_key), or remove the other"
        )
    return next(iter(charges.values()), None)


def spin_of(
    header: Mapping[str, Any], electrons: int, key: str = "", reading: str = ""
) -> Spin | None:
    """Spin multiplicity; None: the header has none.

    Args:
        header: entries by name, e.g. `info` of a frame.
        electrons: number of electrons.
        key: name of the entry to read; by default all names that are known, which must agree.
        reading: `2S+1`, `2S` or `S`, what the number under `key`, or under one of `SPIN_KEYS`,
            is; by default as the name and the number of electrons tell.

    Raises:
        InputError: it is no possible spin, or two entries differ.
    """
    if key and key not in header:
        raise InputError(f"no entry {key!r} (spin_key); there are {_names(header)}")
    spins = [
        _spin(name, value, electrons, reading)
        for name, value in _entries(
            header, (key,) if key else (*MULTIPLICITY_KEYS, *UNPAIRED_KEYS, *SPIN_KEYS)
        ).items()
    ]
    if len({spin.multiplicity for spin in spins}) > 1:
        words = ", ".join(f"{s.key} as {s.reading} → 2S+1 = {s.multiplicity}" for s in spins)
        raise InputError(
            f"{words}: which is the spin? Expected one, or such as agree: name it (spin_key), and "
            "what its number is (spin_is)"
        )
    return min(spins, key=lambda spin: spin.by_parity, default=None)


def readings(header: Mapping[str, Any]) -> dict[str, int]:
    """All multiplicities that entries of a header may mean, by what they would be read as."""
    meanings = {}
    for name, value in _entries(header, (*MULTIPLICITY_KEYS, *UNPAIRED_KEYS, *SPIN_KEYS)).items():
        number = _number(name, value)
        for reading in _readings_by_name(name) or ("2S+1", "2S", "S"):
            meanings[f"{name} = {number:g} as {reading}"] = _multiplicity(number, reading)
    return {words: m for words, m in meanings.items() if m >= 1}


def sum_of_partial_charges(atoms: Atoms) -> tuple[str, float] | None:
    """Name and sum, e, of a column of partial charges; None: there is none.

    A column with the atomic numbers is none: some tools call them charges.
    """
    columns = dict(atoms.arrays) | (dict(atoms.calc.results) if atoms.calc else {})
    for name in PARTIAL_CHARGES:
        values = np.asarray(columns.get(name, ()))
        if values.shape != (len(atoms),) or values.dtype.kind not in "iuf":
            continue
        if not np.allclose(values, atoms.numbers):
            return name, float(values.sum())
    return None


def charge_in_mol_file(path: Path) -> int | None:
    """Sum of formal charges of a MOL or SDF file, which ASE's reader passes over, e.

    None: another file, or one that RDKit cannot read.
    """
    if path.suffix.lower() not in isotopes.MOL_FILES:
        return None
    with rdBase.BlockLogs():
        reader = Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False)
        charges = [Chem.GetFormalCharge(molecule) for molecule in reader if molecule]
    return charges[0] if charges else None


def _entries(header: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Entries with one of the names, in any case, by the name that they have."""
    known = {name.lower() for name in names}
    return {name: value for name, value in header.items() if str(name).lower() in known}


def _readings_by_name(name: str) -> tuple[str, ...]:
    if name.lower() in MULTIPLICITY_KEYS:
        return ("2S+1",)
    return ("2S",) if name.lower() in UNPAIRED_KEYS else ()


def _spin(name: str, value: Any, electrons: int, reading: str) -> Spin:
    number, by_name = _number(name, value), _readings_by_name(name)
    if by_name and not (reading and name.lower() in SPIN_KEYS):
        reading = by_name[0]
    if reading:
        multiplicity = _multiplicity(number, reading)
        if multiplicity < 1:
            raise InputError(f"{name} = {number:g}: not a possible {reading}")
        return Spin(multiplicity, name, reading, by_name=True)
    if abs(number - round(number)) > WHOLE:  # only S is a half
        multiplicity = _multiplicity(number, "S")
        if multiplicity >= 1 and (electrons - multiplicity) % 2:
            return Spin(multiplicity, name, "S")
        raise InputError(f"{name} = {number:g}: no possible spin of {electrons} electrons")
    for possible in ("2S+1", "2S"):
        multiplicity = _multiplicity(number, possible)
        if multiplicity >= 1 and (electrons - multiplicity) % 2:
            return Spin(multiplicity, name, possible, by_parity=True)
    raise InputError(
        f"{name} = {number:g}: neither 2S nor 2S+1 of {electrons} electrons: expected 2S+1 "
        f"{'even' if electrons % 2 else 'odd'}. Is the charge right? Name the entries (charge_key, "
        "spin_key)"
    )


def _multiplicity(number: float, reading: str) -> int:
    """2S+1 of a number that is 2S+1, 2S or S; 0: it is none of a spin."""
    value = {"2S+1": number, "2S": number + 1, "S": 2 * number + 1}[reading]
    return round(value) if abs(value - round(value)) <= WHOLE and value >= 1 - WHOLE else 0


def _whole(name: str, value: Any, meaning: str) -> int:
    number = _number(name, value)
    if abs(number - round(number)) > WHOLE:
        raise InputError(
            f"{name} = {number:g}: expected a whole number, {meaning}. Is it a partial charge? "
            "Name the entry of the total (charge_key), or remove this one"
        )
    return round(number)


def _number(name: str, value: Any) -> float:
    """The one number of an entry."""
    if np.asarray(value).dtype == bool:  # ASE reads a word without a value as true
        raise InputError(f"the word {name} stands without a value: expected {name}=NUMBER")
    try:
        number = float(np.asarray(value).astype(float).reshape(()))
    except (ValueError, TypeError):
        raise InputError(f"{name} = {value!r}: expected one number") from None
    if not np.isfinite(number):
        raise InputError(f"{name} = {value!r}: expected a finite number")
    return number


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def _names(header: Mapping[str, Any]) -> str:
    return ", ".join(map(str, header)) or "none"
