"""Which spin a frame is labelled in.

A structure has one multiplicity, and its frames keep it: `multiplicity: 3`. Where bonds break and
form, the ground state changes its spin on the way (O₂ is a triplet, what it burns to are singlets
and doublets), and `multiplicities: [1, 3, 5]` has every frame labelled in each of them: the lowest
energy is the frame's label, the potential is that of the ground state.

Not for: what spins are possible (`reference.base.spin_fault`), or what a program makes of one.
"""

from collections.abc import Mapping, Sequence

from ase import Atoms

from halcyon.config import StructureSettings
from halcyon.frames import structure_key
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.labels.reference.base import Status


def candidates(
    frames: Sequence[Atoms], structures: Mapping[str, StructureSettings]
) -> list[list[Atoms]]:
    """Each frame in all the multiplicities that its structure asks for.

    Args:
        frames: with `info["structure"]`.
        structures: settings by name.
    """
    found = []
    for frame in frames:
        scan = structures[frame.info["structure"]].multiplicities
        same = []
        for multiplicity in scan or [frame.info["multiplicity"]]:
            one = frame.copy()
            one.info = dict(frame.info) | {"multiplicity": multiplicity}
            one.info["key"] = structure_key(one)
            same.append(one)
        found.append(same)
    return found


def lowest(labelled: Sequence[Atoms]) -> Atoms:
    """The state of lowest energy of one frame.

    Where a state has no good label it might be the lowest: then the frame has none either.

    Args:
        labelled: one frame in several multiplicities, with records.

    Returns:
        One of them, as a new frame; `paid` is what all of them cost.
    """
    bad = [frame for frame in labelled if frame.info["status"] != Status.OK]
    best = bad[0] if bad else min(labelled, key=lambda frame: frame.info["energy"])
    chosen = best.copy()
    chosen.info = dict(best.info) | {"paid": sum(frame.info["paid"] for frame in labelled)}
    if bad and len(labelled) > 1:
        if any(frame.info["status"] == NOT_COMPUTED for frame in bad):
            chosen.info["status"] = NOT_COMPUTED  # it may yet get its label
        asked = ", ".join(str(frame.info["multiplicity"]) for frame in labelled)
        chosen.info["message"] = (
            f"multiplicity {best.info['multiplicity']} of {asked}, each of which might be the "
            f"lowest: {best.info['message']}"
        )
    return chosen
