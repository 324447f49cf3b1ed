"""What is checked of solids, slabs and fixed atoms before the first job.

    from pathlib import Path
    from halcyon import config
    from halcyon.campaign.campaign import Campaign
    from halcyon.campaign.check_solids import check_vacuum

    source = "config/quickstart.yaml"
    plan = Campaign.resolve(config.read_yaml(Path(source)), source).systems["ethanol"]
    check_vacuum(plan, [plan.start("ethanol")], source)  # would refuse a slab that feels its image

Not for: what a structure's file says (`systems.structures`), or all other checks (`checks`).
"""

from typing import TYPE_CHECKING

import numpy as np

from halcyon import config
from halcyon.campaign.campaign import SystemPlan
from halcyon.errors import InputError

# Chemistry is imported where it is needed, as in `checks`.
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

ROUNDING_A = 1e-3
"""A cell that is narrower by less is as good as wide enough, Å."""


def check_fixed(plan: SystemPlan, starts: "Sequence[Atoms]", source: str) -> None:
    """Refuse dynamics that would have to move a fixed atom.

    Args:
        plan: a system.
        starts: its start structures.
        source: name of the campaign's file, for messages.

    Raises:
        InputError: the message names the structure and the setting.
    """
    from halcyon.systems.fixed import fixed_atoms

    exploration = plan.settings.exploration
    for start in starts:
        structure, fixed = start.info["structure"], fixed_atoms(start)
        if structure not in plan.explored or not fixed.any():
            continue
        begins = f"{source}: system {plan.system.name}: structure {structure}: "
        if exploration.ensemble == "npt":
            raise InputError(
                f"{begins}{int(fixed.sum())} atoms are fixed, and exploration.ensemble = 'npt' "
                "would move them with the cell. Set the ensemble to nvt or nve, or `fixed: none`"
            )
        if not isinstance(exploration.bias, config.MetadynamicsBias):
            continue
        for number, variable in enumerate(exploration.bias.variables):
            if variable.structure in (None, structure) and fixed[variable.all_atoms].all():
                raise InputError(
                    f"{begins}exploration.bias.variables.{number}: all of its atoms "
                    f"({', '.join(map(str, variable.all_atoms))}) are fixed: the bias could not "
                    "move them. Expected at least one atom that is free"
                )


def check_k_points(plan: SystemPlan, reference: config.ReferenceSettings, source: str) -> None:
    """Refuse k-points for what is neither a crystal nor a slab.

    Args:
        plan: a system.
        reference: section `reference` of the campaign.
        source: name of the campaign's file, for messages.

    Raises:
        InputError: the message names the system and the setting.
    """
    spacing = getattr(reference, "k_spacing_per_A", None)
    if spacing is not None and plan.system.kind not in ("solid", "slab"):
        raise InputError(
            f"{source}: reference.k_spacing_per_A = {spacing:g}: system {plan.system.name} has "
            f"`kind: {plan.system.kind}`: expected solid or slab. Molecules and liquids need no "
            "k-points: remove the setting, or give them a campaign of their own"
        )


def check_vacuum(plan: SystemPlan, starts: "Sequence[Atoms]", source: str) -> None:
    """Refuse a crystal that is not periodic, a cell too small, and a slab that feels its image.

    Atoms are told from their images by the nearest one, so that a cell is at least two bonds wide.

    Args:
        plan: a system.
        starts: its start structures.
        source: name of the campaign's file, for messages.

    Raises:
        InputError: the message names the structure, with the numbers, and what to do.
    """
    from halcyon.systems.fixed import vacuum_A

    kind, cutoff = plan.system.kind, plan.settings.model.r_max_A
    if kind not in ("solid", "slab"):
        return
    for start in starts:
        structure = start.info["structure"]
        begins = f"{source}: system {plan.system.name}: structure {structure}: "
        if not start.pbc.all():
            continue  # a cluster or a molecule that is learned together with the others
        if (gap := vacuum_A(start)) <= cutoff and kind == "slab":
            raise InputError(
                f"{begins}its vacuum is {gap:.1f} Å thick, and model.r_max_A = {cutoff:g}: the "
                "model would see the next slab. Expected a vacuum along the third cell vector "
                "that is thicker than the cutoff, or `kind: solid`: bulk crystals, also together "
                "with slabs and clusters"
            )
        npt = structure in plan.explored and plan.settings.exploration.ensemble == "npt"
        if npt and gap > cutoff:
            raise InputError(
                f"{begins}it has a vacuum of {gap:.1f} Å, which constant pressure "
                "(exploration.ensemble = 'npt') would close. Set the ensemble to nvt or nve, or "
                "`explore: false` for this structure"
            )
        widths = widths_A(start)
        of_smiles = plan.structures[structure].smiles is not None
        least = 0.0 if of_smiles else 2 * longest_bond_A(start)
        if (widths < least - ROUNDING_A).any():
            repeats = np.ceil((least - ROUNDING_A) / widths).astype(int).tolist()
            raise InputError(
                f"{begins}its cell is {widths.min():.2f} Å wide, and an atom is told from its "
                f"images only in {least:.2f} Å, twice the longest bond. Expected a supercell: "
                f"`supercell: {repeats}` or more, times the present one if there is one"
            )


def widths_A(start: "Atoms") -> np.ndarray:  # noqa: N802 (the unit)
    """Distances of opposite faces of a cell, Å, shape (3,)."""
    widths: np.ndarray = 1 / np.linalg.norm(np.linalg.inv(start.cell.array), axis=0)
    return widths


def longest_bond_A(start: "Atoms") -> float:  # noqa: N802 (the unit)
    """Longest distance of two atoms of a file that are bonded, Å; 0 without bonds."""
    from ase.neighborlist import natural_cutoffs, neighbor_list

    from halcyon.systems.structures import BONDED

    distances = neighbor_list("d", start, natural_cutoffs(start, mult=BONDED))
    return float(distances.max(initial=0.0))
