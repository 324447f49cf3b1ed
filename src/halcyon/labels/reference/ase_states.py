"""Whether an ASE calculator knows charge and spin: shown by its own labels, before any is paid.

    from halcyon.labels.reference.ase_states import ignored

    ignored(frames, {}, compute)  # "": every state that the frames need changes the label

Calculators read charge and spin in many ways, and many read neither: those label an ion as its
neutral molecule, without a word. A calculator that ignores a state gives the same label for
another one; a calculator that fails there has noticed it.

Not for: whether a charge and a multiplicity fit the electrons (`base.spin_fault`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from halcyon.errors import InputError
from halcyon.labels.reference.base import Record, Status, spin_fault
from halcyon.systems import headers

SAME_eV, SAME_eV_per_A = 1e-6, 1e-5
"""Two labels that differ by less are one label: SCF noise of most programs is larger."""


def ignored(
    frames: Sequence[Atoms], arguments: Mapping[str, Any], compute: Callable[[Atoms], Record]
) -> str:
    """Say which of charge and multiplicity the calculator ignores; empty if none that matters.

    The smallest frame with a charge, and the smallest with another multiplicity than 1, are
    computed as they are and in another state. A frame that has the state that the calculator's
    arguments name needs no proof, and one that is neutral and closed-shell needs it only where
    the arguments name another state.

    Args:
        frames: with `info` keys charge, multiplicity and structure.
        arguments: keyword arguments of the calculator.
        compute: gives a frame's label.

    Raises:
        InputError: a frame that is needed for the proof cannot be computed; it is named.
    """
    for key, needing, others in (
        ("charge", _needing_charge(frames, arguments), _other_charges),
        ("multiplicity", _needing_multiplicity(frames, arguments), _other_multiplicities),
    ):
        for atoms in sorted(needing, key=len)[:1]:
            own = compute(atoms)
            if own.status is not Status.OK:
                raise InputError(
                    f"structure {atoms.info.get('structure', '?')}: {key} = {atoms.info[key]}: it "
                    "was to be computed in two states, to see whether the calculator knows them, "
                    f"and was not: {own.message}. Expected a calculator that runs where the "
                    "workflow is started"
                )
            for other in others(atoms):
                if _same(own, compute(other)):
                    return (
                        f"structure {atoms.info.get('structure', '?')}: {key} = {atoms.info[key]}: "
                        f"the calculator gives the same label with {key} = {other.info[key]}: it "
                        "ignores it. Expected a calculator that reads the frame's charge and spin "
                        "(atoms.info, initial charges and magnetic moments), or arguments that "
                        "name those of all structures"
                    )
    return ""


def _needing_charge(frames: Sequence[Atoms], arguments: Mapping[str, Any]) -> list[Atoms]:
    try:
        named = headers.charge_of(arguments)
    except InputError:  # an argument of another meaning
        named = None
    return [atoms for atoms in frames if atoms.info["charge"] != (named or 0)]


def _needing_multiplicity(frames: Sequence[Atoms], arguments: Mapping[str, Any]) -> list[Atoms]:
    try:
        named = {*headers.readings(arguments).values()} or {1}
    except InputError:
        named = {1}
    return [atoms for atoms in frames if atoms.info["multiplicity"] not in named]


def _other_charges(atoms: Atoms) -> Iterator[Atoms]:
    """The frame with a charge nearer to zero by 2, which needs no other multiplicity."""
    charge = atoms.info["charge"]
    return _possible(atoms, charge=charge - 2 if charge > 0 else charge + 2)


def _other_multiplicities(atoms: Atoms) -> Iterator[Atoms]:
    """The frame with the next multiplicity; none where its electrons allow one only."""
    multiplicity = atoms.info["multiplicity"]
    return _possible(atoms, multiplicity=multiplicity - 2 if multiplicity > 2 else multiplicity + 2)


def _possible(atoms: Atoms, **state: int) -> Iterator[Atoms]:
    other = atoms.copy()
    other.info = {**atoms.info, **state}
    if not spin_fault(other):
        yield other


def _same(first: Record, second: Record) -> bool:
    """Whether two records are one label; a record without a label is another one."""
    if first.energy is None or second.energy is None:
        return False
    if first.forces is None or second.forces is None:
        return False
    return bool(
        abs(first.energy - second.energy) < SAME_eV
        and np.abs(np.subtract(first.forces, second.forces)).max(initial=0) < SAME_eV_per_A
    )
