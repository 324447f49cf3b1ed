"""What a model's energies mean, and which states it cannot tell apart, from the labels it learned.

    from halcyon.final.meaning import caveats

    caveats(frames, bonds_hold=True)  # lines for the model card

A model's total energy is a sum of the elements' own energies and of atomic contributions. Labels of
one composition fix only their sum, so that any two compositions can be compared only if labels of
both were learned. Charge and spin are no inputs of the model at all.

Not for: how large the errors are (the card has those of the test set).
"""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from halcyon.wording import count, listed

SHOWN = 6
"""So many compositions are named."""


def caveats(frames: Sequence[Atoms], *, bonds_hold: bool) -> list[str]:
    """Lines for the model card.

    Args:
        frames: that the model learned, with `info` keys charge and multiplicity.
        bonds_hold: whether a bond that breaks was a failure in the campaign.
    """
    return [_of_compositions(frames), *_of_bonds(bonds_hold=bonds_hold), _of_states(frames)]


def _of_compositions(frames: Sequence[Atoms]) -> str:
    formulas: dict[str, np.ndarray] = {}
    numbers = sorted({int(number) for frame in frames for number in frame.numbers})
    for frame in frames:
        counts = np.array([(frame.numbers == number).sum() for number in numbers])
        formulas.setdefault(frame.get_chemical_formula(), counts)
    rank = int(np.linalg.matrix_rank(np.array([*formulas.values()])))
    names, more = [*formulas][:SHOWN], len(formulas) - SHOWN
    shown = listed([*names, *([f"{more} others"] if more > 0 else [])])
    if len(formulas) == 1:
        return (
            f"Energies of other compositions: all labels are of {shown}, so that the elements' own "
            "energies are one choice of many. Differences between geometries of it mean something; "
            "atomisation, reaction and binding energies, and comparisons with any other molecule, "
            "do not."
        )
    if rank < len(numbers):
        return (
            f"Energies of other compositions: labels are of {shown}, which fix {rank} of "
            f"{count(len(numbers), 'element energy', 'element energies')}. Reactions among these "
            "compositions mean something, within the errors above; those with any other do not."
        )
    return (
        f"Energies of other compositions than {shown}: reactions among these were learned, within "
        "the errors above; all others are extrapolated."
    )


def _of_bonds(*, bonds_hold: bool) -> list[str]:
    if not bonds_hold:
        return []
    return [
        "Bonds that break or form: a broken bond ended a replica, so that none was explored or "
        "labelled. Dissociation energies and barriers mean nothing."
    ]


def _of_states(frames: Sequence[Atoms]) -> str:
    states = sorted({(int(f.info["charge"]), int(f.info["multiplicity"])) for f in frames})
    words = listed([f"charge {charge:+d}, multiplicity {spin}" for charge, spin in states])
    words = words.replace("charge +0", "charge 0")
    return (
        f"Other charges and spins: the model knows neither. It learned {words}, and gives the same "
        "energy for the same atoms in any other state."
    )
