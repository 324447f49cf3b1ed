"""A system's file from a crystal or a slab: kind, supercell and teacher, each with its reason.

    from halcyon.commands.new_system.crystal import propose_crystal
    from halcyon.commands.new_system.wish import Wish

    proposal = propose_crystal(Wish("salt", "config/structures/nacl.cif"))
    print(proposal.text)

Not for: molecules and boxes of them (`proposal`), or checking the file (`systems.structures`).
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators import emt

from halcyon.campaign.check_solids import ROUNDING_A, longest_bond_A, widths_A
from halcyon.commands.new_system.campaign_file import plain, quoted
from halcyon.commands.new_system.proposal import Proposal, least_time_ps
from halcyon.commands.new_system.teacher_choice import WATER_AND_IONS, forcefield_lines
from halcyon.commands.new_system.wish import Wish, least_unpaired
from halcyon.config import (
    AseForceField,
    ExplorationSettings,
    ForceFieldSettings,
    StructureSettings,
    XmlForceField,
    XtbForceField,
)
from halcyon.errors import InputError
from halcyon.labels.reference.cp2k.kpoints import steady_spacing
from halcyon.systems import structures
from halcyon.systems.fixed import fixed_atoms, layers_of, vacuum_A
from halcyon.systems.guesses import NONMETALS
from halcyon.systems.molecules import number_of_molecules
from halcyon.systems.sites import site_classes
from halcyon.teacher.forcefield import make_teacher

VACUUM_A = 6.0
"""A wider gap between layers of atoms, Å, is a vacuum; layered crystals have at most some 4 Å."""
WIDTH_A = 8.0
"""A supercell is at least so wide, Å, where that does not take too many atoms."""
MOST_ATOMS = 200
"""A supercell has at most so many atoms, if it is two bonds wide with fewer."""
K_SPACING = {"insulator": 0.8, "metal": 0.25}
"""Distance of k-points to begin with, 1/Å."""
D_METALS = frozenset("Sc Ti V Cr Mn Fe Co Ni Cu Zn Pd Ag Pt Au".split())  # noqa: SIM905
"""Elements of the shipped level for metals that the one for other solids lacks."""


@dataclass(frozen=True)
class Crystal:
    """A crystal or slab with its settings.

    Attributes:
        settings: its structure in the system's file.
        kind: solid or slab.
        atoms: its start structure, the supercell.
        widest: whether the supercell is as wide as `WIDTH_A`.
        spin: the reason for its multiplicity, in words.
    """

    settings: StructureSettings
    kind: str
    atoms: Atoms
    widest: bool
    spin: str

    @property
    def is_metal(self) -> bool:
        """Whether it has metallic elements only."""
        return not NONMETALS & set(self.atoms.symbols)

    @property
    def k_spacing_per_A(self) -> float:  # noqa: N802 (the unit)
        """Distance of k-points to begin with, 1/Å, at which the mesh does not change."""
        start = K_SPACING["metal" if self.is_metal else "insulator"]
        return steady_spacing([self.atoms], start) or start


def is_crystal(source: str) -> bool:
    """Whether a source is a structure file with periodic boundaries."""
    path = Path(source)
    if not path.is_file():
        return False
    try:
        read = ase.io.read(path)
    except Exception:  # noqa: BLE001 (ASE's many readers raise anything; it is refused elsewhere)
        return False
    return isinstance(read, Atoms) and bool(read.pbc.any())


def propose_crystal(wish: Wish) -> Proposal:
    """Choose everything that the wish leaves open.

    Raises:
        InputError: the file has no whole atoms, or is no crystal; charge or spin do not fit; or no
            teacher knows its elements.
    """
    crystal = _crystal(wish)
    forcefield, why = _teacher(wish, crystal)
    settings, atoms = crystal.settings, crystal.atoms
    what = {
        "solid": "a crystal: no bond must hold, and it may melt",
        "slab": f"a surface, with a vacuum of {vacuum_A(atoms):.1f} Å along its third vector",
    }[crystal.kind]
    lines = [
        "# yaml-language-server: $schema=../schema/system.schema.json",
        f"# {settings.file}: {atoms.get_chemical_formula()}, {len(atoms)} atoms.",
        "# Written by `halcyon new-system`: every choice is a proposal. More:",
        "# docs/add-a-system.md",
        f"name: {plain(wish.name)}",
        f"description: {atoms.symbols.formula.reduce()[0]}, {crystal.kind}.",
        f"kind: {crystal.kind} # {what}",
        *forcefield_lines(forcefield, why),
        "structures:",
        f"  - name: {plain(settings.name)}",
        f"    file: {quoted(str(settings.file))}",
        f"    charge: {settings.charge} # of all these atoms",
        f"    multiplicity: {settings.multiplicity} # 2S+1: {crystal.spin}",
        *(["    periodic: true # along the vacuum, too"] if settings.periodic else []),
        *(
            [
                f"    supercell: {settings.supercell} # {len(atoms)} atoms, at least "
                f"{_narrowest(crystal):.1f} Å wide"
            ]
            if settings.supercell
            else []
        ),
        "overrides: # of the campaign's settings, for this system",
        f"  exploration: {_exploration(crystal)} # so long that rare events can be told",
    ]
    return Proposal(
        "\n".join(lines) + "\n",
        [],
        notes=_notes(crystal),
        k_spacing_per_A=crystal.k_spacing_per_A,
        is_metallic=crystal.is_metal or bool(D_METALS & set(atoms.symbols)),
    )


def _exploration(crystal: Crystal) -> str:
    """At room temperature, for at least as long as a campaign's default."""
    default = ExplorationSettings()
    least = least_time_ps(default.replicas, number_of_molecules(crystal.atoms, kind=crystal.kind))
    needed = max(default.time_ps, least)
    return f"{{temperatures_K: [300.0], time_ps: {needed:.1f}}}"


def _crystal(wish: Wish) -> Crystal:
    """The crystal with all its settings."""
    for option, value in (
        ("--liquid, --in-water and --reactive", wish.kind != "molecule"),
        ("--box", wish.box_A),
    ):
        if value:
            raise InputError(
                f"{wish.source} is periodic: {option}: not possible, since it has a cell of its own"
            )
    given = {} if wish.charge is None else {"charge": wish.charge}
    read = ase.io.read(wish.source)
    if isinstance(read, Atoms) and not read.pbc.all():
        given["periodic"] = True
    settings = StructureSettings(name=wish.name, file=Path(wish.source), **given)
    cell = structures.start_structure(
        settings.model_copy(update={"multiplicity": 1 + least_unpaired(settings)})
    )
    kind = _kind(wish, cell)
    supercell, widest = _supercell(cell, kind)
    if max(supercell) > 1:
        settings = settings.model_copy(update={"supercell": supercell})
    multiplicity = wish.multiplicity or 1 + least_unpaired(settings)
    settings = settings.model_copy(update={"multiplicity": multiplicity})
    spin = "the lowest that fits the number of electrons"
    atoms = structures.start_structure(settings)
    return Crystal(settings, kind, atoms, widest, "as asked for" if wish.multiplicity else spin)


def _kind(wish: Wish, cell: Atoms) -> str:
    """Solid, or slab where there is a vacuum along the third vector.

    Raises:
        InputError: the vacuum is along another vector, or all around a molecule.
    """
    gaps = [vacuum_A(_turned(cell, axis)) for axis in range(3)]
    empty = [axis for axis, gap in enumerate(gaps) if gap > VACUUM_A]
    if not empty:
        return "solid"
    words = ", ".join(f"{gaps[axis]:.1f} Å along {'abc'[axis]}" for axis in empty)
    if empty != [2]:
        raise InputError(
            f"{wish.source}: vacuum of {words}: expected none (a crystal), or one along the third "
            "cell vector (a slab). Turn the slab's cell; give a molecule as SMILES or in a file "
            "without a cell"
        )
    return "slab"


def _turned(cell: Atoms, axis: int) -> Atoms:
    """The same crystal with another cell vector as the third."""
    order = [(axis + 1) % 3, (axis + 2) % 3, axis]
    return Atoms(cell.numbers, positions=cell.positions, cell=cell.cell.array[order], pbc=True)


def _supercell(cell: Atoms, kind: str) -> tuple[list[int], bool]:
    """How often the cell is repeated, and whether it is as wide as `WIDTH_A` then.

    A slab is not repeated along its third vector.
    """
    needed = 2 * longest_bond_A(cell) - ROUNDING_A
    for width in (max(needed, WIDTH_A), needed):
        repeats = np.maximum(1, np.ceil(width / widths_A(cell))).astype(int)
        if kind == "slab":
            repeats[2] = 1
        if len(cell) * repeats.prod() <= MOST_ATOMS:
            return repeats.tolist(), width >= WIDTH_A
    return repeats.tolist(), False


def _narrowest(crystal: Crystal) -> float:
    """Least width of the cell, Å, the vacuum's direction left out."""
    return float(widths_A(crystal.atoms)[: 2 if crystal.kind == "slab" else 3].min())


def _teacher(wish: Wish, crystal: Crystal) -> tuple[ForceFieldSettings, str]:
    """The teacher and the reason: the user's, EMT for its metals, ions by OpenMM, or xTB.

    Raises:
        InputError: it does not know the elements.
    """
    atoms, settings = crystal.atoms, crystal.settings
    forcefield: ForceFieldSettings = XtbForceField(kind="xtb")
    why = "the teacher's: GFN1-xTB, by tblite, which knows all elements up to radon; Γ point only"
    ions = XmlForceField(kind="forcefield_xml", files=[WATER_AND_IONS])
    if wish.forcefield:
        forcefield = XmlForceField(kind="forcefield_xml", files=list(wish.forcefield))
        why = "yours"
    elif crystal.is_metal and set(atoms.symbols) <= emt.parameters.keys():
        calculator = "ase.calculators.emt.EMT"
        forcefield = AseForceField(kind="ase", calculator=calculator)
        why = "the teacher's: effective medium theory, made for these metals"
    elif _is_salt_of(ions, crystal):
        forcefield, why = ions, "the teacher's: charges and walls of ions, comes with OpenMM"
    make_teacher(
        forcefield,
        atoms,
        structures.bonds(settings, atoms),
        molecules=lambda: {settings.name: structures.molecules(settings, atoms, [])},
    )
    return forcefield, why


def _is_salt_of(ions: XmlForceField, crystal: Crystal) -> bool:
    """Whether every atom is an ion of a force field, and their charges are the crystal's."""
    atoms, settings = crystal.atoms, crystal.settings
    try:
        teacher = make_teacher(ions, atoms, structures.bonds(settings, atoms))
    except InputError:
        return False
    return not teacher.bonds and teacher.has_charge(settings.charge)


def _notes(crystal: Crystal) -> list[str]:
    """What a person should look at."""
    atoms, notes = crystal.atoms, []
    if crystal.kind == "solid":
        counts = Counter(name.partition(":")[2] for name in site_classes(atoms))
        words = ", ".join(f"{name} ({number} atoms)" for name, number in counts.items())
        notes.append(f"sites that symmetry makes equivalent share a class: {words}")
        if 1 < (molecules := number_of_molecules(atoms)) < len(atoms):
            notes.append(
                f"it has {molecules} molecules or ions. Where these shall move past each other, "
                "write `kind: liquid`, whose bonds must hold"
            )
    elif not fixed_atoms(atoms).any() and (layers := int(layers_of(atoms).max()) + 1) > 1:
        notes.append(
            f"the slab has {layers} layers, and none is fixed: `fixed: {{layers: 1}}` holds the "
            "lowest as in the bulk"
        )
    if not crystal.widest:
        notes.append(
            f"the cell is {_narrowest(crystal):.1f} Å wide, less than {WIDTH_A:g} Å, for which it "
            f"would take more than {MOST_ATOMS} atoms"
        )
    if crystal.is_metal:
        notes.append(
            "a metal needs smeared electrons and many k-points, so CP2K for its labels, with "
            "config/cp2k/pbe-metal.yaml (docs/levels-of-theory.md); a magnetic one, which CP2K "
            "computes without k-points only, needs a large cell and its multiplicity"
        )
    else:
        notes.append(
            "labels by xTB are those of the Γ point: compare the pressure with a larger supercell, "
            "or label with CP2K, which has k-points"
        )
    if "C" in atoms.symbols and "H" not in atoms.symbols:
        notes.append("it has carbon and no hydrogen: make sure that the file does not lack it")
    return notes
