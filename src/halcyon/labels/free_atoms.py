"""Free atoms: where bonds break, the energies of the elements.

    from halcyon.labels.free_atoms import free_atoms

    hydrogen, oxygen = free_atoms([1, 8])
    oxygen.info["multiplicity"]  # 3, Hund's rule

MACE gives an atom that has no neighbour the energy of its element, exactly. Energies of elements
that are fitted to whole frames (`models.energy_zero`) are right only in sums over molecules that
were labelled: a free atom may then lie some eV off, and with it everything that a reaction passes
through on the way from one molecule to another.

Not for: the fit of elements whose free atom has no label.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, ground_state_magnetic_moments

from halcyon.frames import structure_key
from halcyon.labels.reference.base import Status

SPLIT = "free_atoms"
"""Set of these frames, beside train, validation and test: no model learns or is judged by them."""
BOX_A = 10.0
"""Edge of their cubic box where no structure of the system has one, Å; codes on a grid need it."""


def free_atoms(elements: Sequence[int], *, box_A: float = BOX_A) -> list[Atoms]:
    """A neutral free atom of each element, in the spin of its ground state, without a label.

    Args:
        elements: atomic numbers.
        box_A: edge of the cubic, not periodic box, Å.

    Returns:
        Frames with the `info` keys of the seed.
    """
    frames = []
    for number in elements:
        frame = Atoms(numbers=[number], positions=np.full((1, 3), box_A / 2), cell=[box_A] * 3)
        frame.info = {
            "structure": f"free {chemical_symbols[number]} atom",
            "charge": 0,
            "multiplicity": _ground_state(number),
            "split": SPLIT,
            "generation": -1,
            "reason": "seed",
            "origin": "free atom",
        }
        frame.info["key"] = structure_key(frame)
        frames.append(frame)
    return frames


def _ground_state(number: int) -> int:
    """Multiplicity of an element's ground state, by ASE's table.

    Where the table lacks it (lawrencium), or has what the number of electrons forbids (cerium,
    which is a singlet), it is the lowest possible.
    """
    lowest = 1 + number % 2
    moment = float(ground_state_magnetic_moments[number])
    possible = np.isfinite(moment) and (round(moment) - number) % 2 == 0
    return round(moment) + 1 if possible else lowest


def is_free_atom(frame: Atoms) -> bool:
    """Whether a frame of a seed is one of `free_atoms`."""
    return frame.info.get("split") == SPLIT


def energies(labelled: Iterable[Atoms]) -> dict[int, float]:
    """Energy of each element whose free atom has a good label, eV, by atomic number.

    Args:
        labelled: frames with records; all but free atoms are passed over.
    """
    return {
        int(frame.numbers[0]): float(frame.info["energy"])
        for frame in labelled
        if is_free_atom(frame) and frame.info["status"] == Status.OK
    }
