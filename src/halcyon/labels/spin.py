"""Which spin a frame is labelled in.

    from halcyon.config import StructureSettings
    from halcyon.labels.spin import states

    settings = StructureSettings(name="water", smiles="O", multiplicities=[1, 3])
    (of_frame,) = states([atoms], {"water": settings})
    [state.info["multiplicity"] for state in of_frame]  # [1, 3]

A structure has one multiplicity, and its frames keep it: `multiplicity: 3`. Where bonds break and
form, the spin of the ground state may change on the way: O₂ is a triplet, its products of
combustion are singlets and doublets. With `multiplicities: [1, 3, 5]` every frame is labelled in
each of these spins. The lowest energy is the frame's label, so that the potential is that of the
ground state. A program that takes no notice of the multiplicity gives all the same energy: such a
frame has no label.

Not for: which spins are possible (`reference.base.spin_fault`), or how a program computes one.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from ase import Atoms

from halcyon.config import StructureSettings
from halcyon.frames import structure_key
from halcyon.labels import sanity
from halcyon.labels.free_atoms import is_free_atom
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.labels.reference.base import Status

PAIRING = 3
"""Least multiplicity with two unpaired electrons, which may pair where a bond forms."""
SAME_eV = 1e-7
"""Two spins whose energies differ by less, eV, are one state: SCF noise alone is larger."""


def likely_spins(multiplicity: int) -> list[int]:
    """Multiplicities that frames of a reactive structure may have as their ground state.

    All that pair some of the electrons that are unpaired at the start, and at least two in all: a
    bond that breaks in a closed shell leaves two radicals, which a triplet describes.

    Args:
        multiplicity: of the start structure, all its spins aligned.
    """
    lowest = 2 - multiplicity % 2
    return list(range(lowest, max(multiplicity, lowest + 2) + 1, 2))


def states(
    frames: Sequence[Atoms], structures: Mapping[str, StructureSettings]
) -> list[list[Atoms]]:
    """Each frame in all the multiplicities that its structure asks for.

    Args:
        frames: with `info["structure"]`; free atoms keep their own spin.
        structures: settings by name.

    Returns:
        For each frame its states: copies with another multiplicity and key.
    """
    states_of_frames = []
    for frame in frames:
        alone = is_free_atom(frame)
        scan = [] if alone else structures[frame.info["structure"]].multiplicities
        of_frame = []
        for multiplicity in scan or [frame.info["multiplicity"]]:
            state = frame.copy()
            state.info = dict(frame.info) | {"multiplicity": multiplicity}
            state.info["key"] = structure_key(state)
            of_frame.append(state)
        states_of_frames.append(of_frame)
    return states_of_frames


def lowest(labelled: Sequence[Atoms]) -> Atoms:
    """The state of lowest energy of one frame.

    A state without a good label might be the lowest. If there is one, the frame has no good label,
    and neither has it where two states have the same energy.

    Args:
        labelled: one frame in several multiplicities, with records.

    Returns:
        A copy of one of them; its `paid` is the sum of all.
    """
    bad = [frame for frame in labelled if frame.info["status"] != Status.OK]
    best = bad[0] if bad else min(labelled, key=lambda frame: frame.info["energy"])
    chosen = best.copy()
    chosen.info = dict(best.info) | {"paid": sum(frame.info["paid"] for frame in labelled)}
    if bad and len(labelled) > 1:
        if any(frame.info["status"] == NOT_COMPUTED for frame in bad):
            chosen.info["status"] = NOT_COMPUTED  # a larger budget may still label it
        scan = ", ".join(str(frame.info["multiplicity"]) for frame in labelled)
        chosen.info["message"] = (
            f"multiplicity {best.info['multiplicity']} of {scan}, each of which might be the "
            f"lowest: {best.info['message']}"
        )
    return (
        chosen if bad or not (reason := same_energy(labelled)) else sanity.rejected(chosen, reason)
    )


def same_energy(labelled: Sequence[Atoms]) -> str:
    """Which multiplicities of one frame have the same energy; empty if all differ.

    Args:
        labelled: one frame in several multiplicities, with records.
    """
    good = [frame.info for frame in labelled if frame.info["status"] == Status.OK]
    good.sort(key=lambda info: float(info["energy"]))
    for lower, upper in pairwise(good):
        if upper["energy"] - lower["energy"] < SAME_eV:
            first, second = sorted((lower["multiplicity"], upper["multiplicity"]))
            return (
                f"multiplicities {first} and {second} have the same energy, "
                f"{lower['energy']:.6f} eV: the reference takes no notice of the spin, and these "
                "are not two labels. Expected a method that tells spins apart, or no "
                "`multiplicities`"
            )
    return ""
