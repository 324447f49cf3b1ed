"""Settings of the label backends."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from halcyon.config.section import CalculatorPath, Count, Hamiltonian, Section

Rung = Literal["more_steps", "conjugate_gradients", "diagonalisation", "smearing", "finer_grid"]
"""A way to rescue a frame whose SCF does not converge; see
`halcyon.labels.reference.cp2k.rescue`."""


class Cp2kReference(Section):
    """Labels from CP2K."""

    backend: Literal["cp2k"] = Field(description="Label with CP2K.")
    level: Path = Field(
        description="File with the level of theory: CP2K input as YAML (cp2k-input-tools) or "
        "plain, without the structure. Relative to the working folder."
    )
    command: str = Field(
        "cp2k.psmp",
        min_length=1,
        description="Command that starts CP2K, e.g. `cp2k.psmp` or `srun -n 4 cp2k.psmp`. It is "
        "split as a shell would, and run without a shell.",
    )
    k_spacing_per_A: float | None = Field(
        None,
        ge=0.05,
        le=3.0,
        description="Of crystals and slabs: largest distance of k-points along each reciprocal "
        "vector, 1/Å (with its 2π), e.g. 0.4. Each frame gets a mesh around Γ of its own, so that "
        "a cell and its supercell have the same level of theory, of which the distance is a part. "
        "By default Γ alone.",
    )
    data_dir: Path | None = Field(
        None,
        description="Folder with CP2K's basis sets and pseudopotentials; by default CP2K_DATA_DIR, "
        "else the usual places.",
    )
    frame_timeout_s: float = Field(
        3600,
        gt=0,
        description="Wall time limit of one frame with its rescue, s; after it the frame gets no "
        "label, until the limit is raised.",
    )
    reuse_wavefunctions: bool = Field(
        True,
        description="Start the SCF of a closed-shell frame from the orbitals of the most similar "
        "frame of its shard.",
    )
    rescue: list[Rung] = Field(
        ["more_steps", "conjugate_gradients", "diagonalisation"],
        description="Tried in this order where SCF does not converge: more steps; conjugate "
        "gradients with a careful preconditioner; diagonalisation with Broyden mixing; the same "
        "with smeared electrons; a grid half as fine again. Each only makes orbitals: the label "
        "is computed from them as the level says.",
    )


class XtbReference(Section):
    """Labels from tblite: semi-empirical, milliseconds a frame, nothing to install."""

    backend: Literal["xtb"] = Field(description="Label with tblite.")
    method: Hamiltonian = Field("GFN2-xTB", description="Hamiltonian.")
    spin_polarized: bool = Field(
        False,
        description="Whether electrons of both spins have orbitals and an exchange of their own. "
        "Radicals and reactive mixtures need it; without it triplets are far too high, and "
        "`multiplicities` is refused. Closed shells have the same energy either way.",
    )
    electronic_temperature_K: float = Field(
        300.0,
        gt=0,
        le=10_000,
        description="Temperature by which orbitals are filled, K; a label is the free energy of "
        "the electrons, and its forces. Where bonds break, levels come together and the SCF "
        "converges badly at 300 K: take the temperature of the dynamics. Another value is another "
        "level of theory, with labels of its own.",
    )
    accuracy: float = Field(
        0.1, gt=0, le=1000, description="tblite's accuracy; smaller is tighter SCF convergence."
    )
    max_iterations: int = Field(250, ge=1, description="SCF steps before a frame is unconverged.")


class PyscfReference(Section):
    """Labels from PySCF: density-functional theory of molecules, nothing to install."""

    backend: Literal["pyscf"] = Field(description="Label with PySCF.")
    level: Path = Field(
        description="File with the level of theory: functional, basis set, dispersion; see "
        "config/pyscf. Relative to the working folder."
    )
    frame_timeout_s: float = Field(
        3600,
        gt=0,
        description="Wall time limit of one frame with its rescue, s, looked at after each step of "
        "SCF; after it the frame gets no label, until the limit is raised.",
    )
    max_iterations: int = Field(
        100, ge=1, description="SCF steps before the frame is rescued, and steps of the rescue."
    )
    rescue: list[Literal["second_order"]] = Field(
        ["second_order"],
        description="Tried where SCF does not converge: the second-order solver. []: nothing.",
    )
    memory_MB: int = Field(
        2000,
        ge=100,
        description="Memory of one label job that PySCF plans with, MB; what is larger goes to "
        "scratch files.",
    )


StressUnit = Literal["eV/A^3", "GPa", "kbar", "bar", "Ha/bohr^3", "eV"]
EnergyUnit = Literal["eV", "meV", "Ha", "kcal/mol", "kJ/mol"]
LengthUnit = Literal["A", "bohr"]


class DatasetLayout(Section):
    """How a published set of labels is written: names of its arrays, and units."""

    numbers_key: str = Field(
        "Z",
        description="npz: array of atomic numbers, (atoms) or (frames, atoms), padded with 0.",
    )
    positions_key: str = Field("R", description="npz: array of positions, (frames, atoms, 3).")
    energy_key: str = Field(
        "",
        description="Array (npz) or entry of the header of energies. By default the usual name "
        "that is there (energy, E, REF_energy, dft_energy, free_energy …); of several with "
        "different values one has to be named.",
    )
    forces_key: str = Field(
        "",
        description="Array (npz) or column of forces. By default the usual name that is there "
        "(forces, F, REF_forces, dft_forces …), the one that goes with the energy's name.",
    )
    energy_unit: EnergyUnit = Field("eV", description="Unit of the energies.")
    positions_unit: LengthUnit = Field("A", description="Unit of positions and cells.")
    forces_unit: tuple[EnergyUnit, LengthUnit] | None = Field(
        None,
        description="Unit of the forces, energy per length, e.g. [Ha, bohr]; by default those of "
        "energies and positions.",
    )
    stress_key: str = Field(
        "",
        description="Comment entry (extxyz) of stresses, 6 or 9 numbers, of frames that are "
        "periodic in three directions; empty: none is read.",
    )
    stress_unit: StressUnit = Field(
        "eV/A^3",
        description="Unit of the stresses; eV: a virial, the stress times the cell's volume.",
    )
    stress_sign: Literal["tension", "pressure"] = Field(
        "tension",
        description="Which stress is positive: tension (ASE), or pressure (VASP, CP2K, and the "
        "entry `virial` of many sets).",
    )
    stress_order: Literal["xx yy zz yz xz xy", "xx yy zz xy yz zx"] = Field(
        "xx yy zz yz xz xy",
        description="Order of a stress of six numbers: that of ASE, or the second, of VASP.",
    )
    charge: int = Field(
        0,
        description="Total charge of frames without an entry of it (charge, total_charge …), e.",
    )
    charge_key: str = Field(
        "", description="Array or entry of total charges, e; by default the usual names."
    )
    spin_key: str = Field(
        "",
        description="Array or entry of spins; by default the usual names (multiplicity, spin, "
        "total_spin, uhf …).",
    )
    spin_is: Literal["2S+1", "2S", "S", "nothing"] | None = Field(
        None,
        description="What the number under `spin_key`, or under spin or total_spin, is. By "
        "default 2S or 2S+1, as the number of electrons allows. nothing: it is not read.",
    )
    multiplicity: Literal["lowest"] | Count = Field(
        "lowest",
        description="Spin multiplicity of frames without an entry of a spin; lowest: 1 or 2, "
        "as the number of electrons allows.",
    )


class DatasetReference(DatasetLayout):
    """Labels looked up in a published set: a campaign in retrospect, without any calculation."""

    backend: Literal["dataset"] = Field(description="Look labels up in files.")
    files: list[Path] = Field(
        min_length=1,
        description="Files of the set, all written alike: extended XYZ, npz, an ASE database "
        "(.db), or Parquet of Halcyon. Relative to the working folder.",
    )
    max_difference_A: float = Field(
        1.0,
        gt=0,
        description="A selected frame is replaced by the most similar frame of the set. If the "
        "root-mean-square difference of their interatomic distances is larger than this, Å, it "
        "gets no label, and is counted.",
    )


class AseReference(Section):
    """Labels from any ASE calculator."""

    backend: Literal["ase"] = Field(description="Label with an ASE calculator.")
    calculator: CalculatorPath = Field(
        description="Import path of the calculator's class, or of a function that returns one, "
        "e.g. `ase.calculators.emt.EMT`. It is imported and run: name only code that you trust.",
    )
    arguments: dict[str, Any] = Field(
        {},
        description="Keyword arguments of the calculator. Where a value is the path of a file, the "
        "file's content is part of the level of theory.",
    )


class EvcReference(Section):
    """Labels interpolated between exact states of few geometries: eigenvector continuation."""

    backend: Literal["evc"] = Field(
        description="Label by eigenvector continuation of full configuration interaction (PySCF)."
    )
    basis: str = Field(min_length=1, description="Basis set, by PySCF's name, e.g. `6-31g`.")
    states: Path = Field(
        description="File of training states (.npz), made by `halcyon states` before the campaign. "
        "Its content is part of the level of theory. Relative to the working folder."
    )
    max_determinants: Count = Field(
        2_000_000,
        description="More determinants are refused: an exact state takes 8 bytes of memory for "
        "each some twenty times over, and minutes from some millions on.",
    )


ReferenceSettings = Annotated[
    Cp2kReference | PyscfReference | XtbReference | AseReference | DatasetReference | EvcReference,
    Field(discriminator="backend"),
]
