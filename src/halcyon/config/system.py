"""A molecular system: its start structures and its force field."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from halcyon.config.section import AtomIndex, CalculatorPath, Count, Hamiltonian, Name, Section


class FixedAtoms(Section):
    """Atoms of a structure that no dynamics moves."""

    atoms: list[AtomIndex] = Field(
        [],
        description="Their numbers in the file, from 0. With `supercell` their copies are "
        "fixed, too.",
    )
    layers: int = Field(
        0,
        ge=0,
        description="The lowest layers along the third cell vector: atoms whose heights differ by "
        "less than 0.5 Å are a layer.",
    )

    @model_validator(mode="after")
    def _not_empty(self) -> "FixedAtoms":
        if not (self.atoms or self.layers):
            raise ValueError("fixed: expected `atoms` or `layers`; `fixed: none` fixes no atom")
        return self


class StructureSettings(Section):
    """A start structure: one composition of the system."""

    name: Name = Field(description="Name of the structure.")
    smiles: str | None = Field(
        None,
        description="The molecule as SMILES. Exactly one of `smiles`, `file` and `pack` is given.",
    )
    file: Path | None = Field(
        None,
        description="Structure file that ASE reads (xyz, extxyz, cif, pdb …).",
    )
    pack: dict[Name, Count] = Field(
        {},
        description="A box packed at random: the number of each of the other structures, e.g. "
        "`{water: 64}`.",
    )
    charge: int = Field(0, ge=-20, le=20, description="Total charge, e.")
    multiplicity: int = Field(1, ge=1, le=20, description="Spin multiplicity 2S+1.")
    multiplicities: list[Annotated[int, Field(ge=1, le=20)]] = Field(
        [],
        description="Spin multiplicities among which `multiplicity`, e.g. [1, 3, 5] where bonds "
        "break and form: every frame is labelled in each of them, at that cost, and the lowest "
        "energy is its label. By default all frames keep `multiplicity`; a list of that one alone "
        "says the same, and that it is meant.",
    )
    box_A: float | None = Field(
        None,
        gt=0,
        description="Edge of the cubic box around a molecule, Å. Codes on a grid (CP2K) need it. "
        "For a packed, periodic structure it is the edge of the cell, if `density_g_per_cm3` is "
        "not given. A periodic `file` has its own cell.",
    )
    density_g_per_cm3: float | None = Field(
        None, gt=0, le=25, description="Density of a packed structure, g/cm³."
    )
    periodic: bool | None = Field(
        None,
        description="Periodic in all directions, or in none. By default packed "
        "structures are periodic, SMILES are not, and a file is if it has a periodic cell.",
    )
    supercell: list[Count] | None = Field(
        None,
        min_length=3,
        max_length=3,
        description="How often the cell of a periodic `file` is repeated along each of its "
        "vectors, e.g. [2, 2, 2].",
    )
    fixed: FixedAtoms | Literal["file", "none"] = Field(
        "file",
        description="Atoms that no dynamics moves, neither the teacher's nor the model's: "
        "`{layers: 2}`, `{atoms: [0, 1]}`, `file` for those that the structure file fixes, or "
        "`none`. Their forces are labelled and learned as those of all others.",
    )
    pretrain: bool = Field(
        True,
        description="Whether the model is pre-trained on the teacher's frames of this structure. "
        "For a packed structure the default is false; its single molecules are pre-trained on "
        "instead.",
    )
    label: bool = Field(
        True,
        description="Whether frames of it are labelled. false: it is sampled by the teacher and "
        "pre-trained on, but neither labelled nor explored, e.g. a single species that a published "
        "set lacks.",
    )
    explore: bool = Field(
        True,
        description="Whether it is explored by molecular dynamics. With `label: false` the default "
        "is false.",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("pack"):
            data = {"pretrain": False} | data
        if isinstance(data, dict) and data.get("label") is False:
            data = {"explore": False} | data
        return data

    @model_validator(mode="after")
    def _one_source(self) -> "StructureSettings":
        where = f"structure {self.name}"
        if [self.smiles is None, self.file is None, not self.pack].count(False) != 1:
            raise ValueError(f"{where}: give one of `smiles`, `file` and `pack`")
        for key, usual in (("supercell", None), ("fixed", "file")):
            if self.pack and getattr(self, key) != usual:
                raise ValueError(f"{where}: {key}: not for `pack`; give the structure as `file`")
        if self.supercell and self.file is None:
            raise ValueError(f"{where}: supercell: only for a `file` with a periodic cell")
        scan = self.multiplicities
        if scan and (self.multiplicity not in scan or len(set(scan)) < len(scan)):
            raise ValueError(
                f"{where}: multiplicities = {scan}: expected different ones, `multiplicity` = "
                f"{self.multiplicity} among them"
            )
        if self.explore and not self.label:
            raise ValueError(
                f"{where}: label = false: expected `explore: false`: what is explored is labelled"
            )
        if self.density_g_per_cm3 is not None and not self.pack:
            raise ValueError(f"{where}: density_g_per_cm3: only for `pack`; give `box_A`")
        if self.pack and self.density_g_per_cm3 is None and self.box_A is None:
            raise ValueError(f"{where}: pack needs `density_g_per_cm3` or `box_A`")
        if self.pack and self.periodic is not False and self.density_g_per_cm3 and self.box_A:
            raise ValueError(
                f"{where}: `density_g_per_cm3` and `box_A` both set the size of the cell; give one"
            )
        return self

    @property
    def is_periodic(self) -> bool | None:
        """Whether it is periodic; None: as the file says."""
        if self.periodic is not None:
            return self.periodic
        return True if self.pack else None if self.file is not None else False


class Gaff2ForceField(Section):
    """GAFF2, whose types AmberTools assigns from the molecules: no file is needed."""

    kind: Literal["gaff2"] = Field(description="GAFF2 for organic molecules.")
    charges: Literal["gasteiger", "bcc"] = Field(
        "gasteiger",
        description="Partial charges. gasteiger: quick. bcc: AM1-BCC, some minutes per molecule.",
    )
    charge_files: dict[Name, Path] = Field(
        {},
        description="Structure → text file with a charge per atom, e, in the structure's order; "
        "it replaces `charges`.",
    )

    @property
    def paths(self) -> list[Path]:
        """Files that it is read from."""
        return list(self.charge_files.values())


class XmlForceField(Section):
    """OpenMM ForceField XML: OpenMM's own or yours."""

    kind: Literal["forcefield_xml"] = Field(description="OpenMM ForceField XML.")
    files: list[Path] = Field(
        min_length=1,
        description="XML files with a template for every molecule: from the working folder, or "
        "by the names of those that come with OpenMM (`amber14/tip3p.xml`).",
    )

    @property
    def paths(self) -> list[Path]:
        """Files that it is read from."""
        return list(self.files)


class AmberForceField(Section):
    """AMBER topologies with their parameters."""

    kind: Literal["amber"] = Field(description="AMBER prmtop.")
    prmtop: dict[Name, Path] = Field(
        min_length=1,
        description="Structure → prmtop file, its atoms in the structure's order.",
    )

    @property
    def paths(self) -> list[Path]:
        """Files that it is read from."""
        return list(self.prmtop.values())


class GromacsForceField(Section):
    """GROMACS topologies with their parameters."""

    kind: Literal["gromacs"] = Field(description="GROMACS top.")
    top: dict[Name, Path] = Field(
        min_length=1, description="Structure → top file, its atoms in the structure's order."
    )
    include_dir: Path | None = Field(
        None, description="Folder of the files that the top files include; by default GROMACS's."
    )

    @property
    def paths(self) -> list[Path]:
        """Files that it is read from."""
        return list(self.top.values())


class XtbForceField(Section):
    """Tight binding by tblite, for all elements up to radon: slower than a force field."""

    kind: Literal["xtb"] = Field(description="A Hamiltonian of tblite.")
    method: Hamiltonian = Field(
        "GFN1-xTB",
        description="Hamiltonian; another than that of the labels, if they are of tblite, shows "
        "what a campaign does. Open shells are spin-polarised.",
    )

    @property
    def paths(self) -> list[Path]:
        """Files that it is read from."""
        return []


class GfnffForceField(Section):
    """GFN-FF, for all elements up to radon: bonds and charges from the start structure, no spin."""

    kind: Literal["gfnff"] = Field(description="GFN-FF, by the package gfnff.")

    @property
    def paths(self) -> list[Path]:
        """Files that it is read from."""
        return []


class AseForceField(Section):
    """Any calculator of ASE: another package's force field, or a model."""

    kind: Literal["ase"] = Field(description="An ASE calculator.")
    calculator: CalculatorPath = Field(
        description="Import path of the calculator's class, or of a function that returns one, "
        "e.g. `ase.calculators.emt.EMT`. It is imported and run: name only code that you trust.",
    )
    arguments: dict[str, Any] = Field(
        {}, description="Keyword arguments of the calculator, as numbers, text, lists and sections."
    )

    @property
    def paths(self) -> list[Path]:
        """Files that it is read from."""
        return []


ForceFieldSettings = Annotated[
    Gaff2ForceField
    | XmlForceField
    | AmberForceField
    | GromacsForceField
    | GfnffForceField
    | XtbForceField
    | AseForceField,
    Field(discriminator="kind"),
]


BONDS_HOLD = ("molecule", "liquid")
"""Kinds of system in which a bond that breaks is a failure of the dynamics."""


class System(Section):
    """A molecular system: what one model learns."""

    name: Name = Field(description="Name of the system, that of its file.")
    description: str = Field("", description="A line for the report.")
    kind: Literal["molecule", "liquid", "reactive", "solid", "slab"] = Field(
        "molecule",
        description="molecule: bonds must hold. liquid: molecules move past each other. reactive: "
        "bonds may break. solid: crystals, without bonds that must hold, also together with slabs "
        "and clusters; they may melt. slab: slabs, also with clusters; each has a vacuum along its "
        "third cell vector, which must be wider than the model's cutoff. It chooses atom classes "
        "and what counts as a failure.",
    )
    forcefield: ForceFieldSettings = Field(
        Gaff2ForceField(kind="gaff2"),
        description="The teacher's force field; `{kind: gaff2}` if left out.",
    )
    structures: list[StructureSettings] = Field(
        min_length=1, description="Start structures; one model learns them together."
    )
    overrides: dict[str, dict[str, Any]] = Field(
        {}, description="Sections of the campaign's settings that differ for this system."
    )

    @model_validator(mode="after")
    def _distinct(self) -> "System":
        names = [structure.name for structure in self.structures]
        if len(set(names)) < len(names):
            raise ValueError(f"structures: names must differ, got {names}")
        if not any(structure.explore for structure in self.structures):
            raise ValueError("structures: at least one must have `explore: true`")
        single = [structure.name for structure in self.structures if not structure.pack]
        for structure in self.structures:
            if unknown := [name for name in structure.pack if name not in single]:
                raise ValueError(
                    f"structure {structure.name}: pack: {', '.join(unknown)}: expected structures "
                    f"of this file that are not packed themselves: {', '.join(single) or 'none'}"
                )
        packed = {name for structure in self.structures for name in structure.pack}
        for structure in self.structures:
            if not (structure.label or structure.pretrain or structure.name in packed):
                raise ValueError(
                    f"structure {structure.name}: label = false, pretrain = false, and no `pack` "
                    "has it: nothing would be done with it"
                )
        for key in ("charge_files", "prmtop", "top"):
            named = getattr(self.forcefield, key, None) or {}
            if unknown := [name for name in named if name not in names]:
                raise ValueError(
                    f"forcefield.{key}: {', '.join(unknown)}: no such structure; expected "
                    f"{', '.join(names)}"
                )
        return self
