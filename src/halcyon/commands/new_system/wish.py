"""What a person asks of a new system, and the molecules that follow.

    from halcyon.commands.new_system.wish import Wish, parts_of

    parts = parts_of(Wish("acetic_acid", "CC(=O)O"))

Not for: force fields and the system's file (see `proposal`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ase import Atoms
from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors

from halcyon.config import StructureSettings
from halcyon.errors import InputError
from halcyon.systems import guesses, structures

NAMES = {
    "O": "water",
    "CO": "methanol",
    "CCO": "ethanol",
    "[Li+]": "lithium",
    "[Na+]": "sodium",
    "[K+]": "potassium",
    "[Mg+2]": "magnesium",
    "[Ca+2]": "calcium",
    "[F-]": "fluoride",
    "[Cl-]": "chloride",
    "[Br-]": "bromide",
    "[I-]": "iodide",
}
"""Names of common partners by SMILES; other partners are named after their formula."""


@dataclass(frozen=True)
class Partner:
    """Another molecule in the box, or, with the count 0, a species that may form."""

    smiles: str
    count: int
    name: str = ""


@dataclass(frozen=True)
class Wish:
    """What a person asks for; None stands for: choose it.

    Attributes:
        name: of the system.
        source: SMILES, or the path of a structure file that ASE reads.
        kind: molecule: one molecule alone; liquid or reactive: a periodic box.
        count: number of the molecules of `source` in the box.
        partners: other molecules in the box, and species that may form.
        box_A: edge of the box around the molecule, or of the periodic box, Å.
        density_g_per_cm3: of the periodic box.
        charge, multiplicity: of the molecule of `source`.
        forcefield: OpenMM XML files.
    """

    name: str
    source: str
    kind: Literal["molecule", "liquid", "reactive"] = "molecule"
    count: int = 1
    partners: Sequence[Partner] = ()
    box_A: float | None = None
    density_g_per_cm3: float | None = None
    charge: int | None = None
    multiplicity: int | None = None
    forcefield: Sequence[Path] = ()


@dataclass(frozen=True)
class Part:
    """A molecule of the system.

    Attributes:
        settings: its structure in the system's file.
        count: number of it in the box.
        atoms: its start structure.
        molecule: the molecule with bond orders.
        spin: the reason for its multiplicity, in words.
        without_orders: why `molecule` has single bonds only; empty: it has its bond orders.
    """

    settings: StructureSettings
    count: int
    atoms: Atoms
    molecule: Chem.Mol
    spin: str
    without_orders: str = ""

    @property
    def name(self) -> str:
        """Name of the structure."""
        return self.settings.name


def parts_of(wish: Wish) -> list[Part]:
    """All molecules with all their settings; the molecule of `source` comes first.

    Raises:
        InputError: a molecule is impossible; charge, spin or box do not fit; or two molecules have
            the same name.
    """
    first = _part(
        wish.source,
        wish.name,
        wish.count,
        box_A=wish.box_A if wish.kind == "molecule" else None,
        charge=wish.charge,
        multiplicity=wish.multiplicity,
    )
    parts = [first]
    for partner in wish.partners:
        named = _part(partner.smiles, partner.name or _name(partner.smiles), partner.count)
        if named.name in {part.name for part in parts}:
            raise InputError(
                f"--with {partner.smiles}:{partner.count}: the name {named.name} is taken already. "
                f"Give another: --with '{partner.smiles}:{partner.count}:NAME'"
            )
        parts.append(named)
    if wish.kind != "molecule" and wish.name == "box":
        raise InputError("--name box: the periodic box has this name; choose another")
    return parts


def _part(
    source: str,
    name: str,
    count: int,
    *,
    box_A: float | None = None,
    charge: int | None = None,
    multiplicity: int | None = None,
) -> Part:
    """A molecule with all its settings."""
    path = Path(source)
    if path.is_file():
        # Left out where it was not given: then the file's header may not say otherwise.
        given = {} if charge is None else {"charge": charge}
        settings = StructureSettings(name=name, file=path, **given)
        guessed, spin = least_unpaired(settings), "the lowest that fits the number of electrons"
    else:
        with rdBase.BlockLogs():
            drawn = Chem.MolFromSmiles(source)
        formal = 0 if drawn is None else Chem.GetFormalCharge(drawn)
        settings = StructureSettings(
            name=name, smiles=source, charge=formal if charge is None else charge
        )
        if drawn is None:
            if path.suffix:
                raise InputError(f"{source}: no such file, and not valid SMILES")
            structures.start_structure(settings)  # raises, with the reason
        guessed, spin = guesses.unpaired_electrons(Chem.AddHs(drawn))
    if multiplicity is None:
        multiplicity = guessed + 1
    else:
        spin = "as asked for"
    settings = settings.model_copy(update={"multiplicity": multiplicity})
    atoms = structures.start_structure(settings)
    if atoms.pbc.any():
        raise InputError(
            f"{source}: the file is periodic, and a crystal cannot be packed into a box. Expected "
            "a molecule"
        )
    settings = settings.model_copy(update={"box_A": box_A or guesses.box_A(atoms)})
    atoms = structures.start_structure(settings)
    pairs = structures.bonds(settings, atoms)
    without_orders = ""
    try:
        (molecule, *more) = structures.molecules(settings, atoms, pairs)
    except InputError as error:  # metals and clusters: only some force fields need bond orders
        without_orders = str(error)
        molecule = structures.bond_graph(atoms, pairs)
        more = list(Chem.GetMolFrags(molecule))[1:]
    if more:
        raise InputError(f"{source}: several molecules; give each its own file")
    return Part(settings, count, atoms, molecule, spin, without_orders)


def least_unpaired(settings: StructureSettings) -> int:
    """Number of unpaired electrons: 0, or 1 if the number of electrons is odd."""
    try:
        structures.start_structure(settings)
    except InputError:
        structures.start_structure(settings.model_copy(update={"multiplicity": 2}))
        return 1
    return 0


def _name(smiles: str) -> str:
    """Name of a partner without a given name."""
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise InputError(f"{smiles}: not valid SMILES")
    formula = rdMolDescriptors.CalcMolFormula(molecule)
    return NAMES.get(Chem.MolToSmiles(molecule), formula.replace("+", "p").replace("-", "m"))
