"""The input of one frame: a level of theory, a structure, and what CP2K shall write.

Not for: what a level of theory is (`level`), or starting CP2K (`program`).
"""

import copy
from pathlib import Path

import numpy as np
from ase import Atoms

from halcyon.errors import InputError
from halcyon.labels.reference.cp2k import kpoints
from halcyon.labels.reference.cp2k.consistency import has_smearing
from halcyon.labels.reference.cp2k.level import DATA_KEYWORDS, Cp2kLevel
from halcyon.labels.reference.cp2k.tree import Tree, branches, lines
from halcyon.labels.stress import is_possible

FORCES_FILE = "forces"
STRESS_FILE = "stress"
FORCE_DIGITS = 12
"""Digits after the decimal point of the forces in hartree/bohr: 5e-11 eV/Å."""

GUESS_FILE = "guess.wfn"
ORBITALS_FILE = "frame-RESTART.wfn"
"""Files of the orbitals that an SCF starts from, and of those that it writes."""
DENSITY_FILE = "frame-RESTART.kp"
"""What it writes in their place with k-points; it may be started from alike."""

WALL_A = 2.0
"""Least distance of a nucleus from the wall of a molecule's box, Å; see docs/decisions/cp2k.md."""


def frame_input(
    level: Cp2kLevel, atoms: Atoms, data_dir: Path, *, guess: bool = False, stress: bool = False
) -> str:
    """CP2K input for energy and forces of one frame; see `frame_tree`."""
    return "\n".join(lines(frame_tree(level, atoms, data_dir, guess=guess, stress=stress))) + "\n"


def frame_tree(
    level: Cp2kLevel, atoms: Atoms, data_dir: Path, *, guess: bool = False, stress: bool = False
) -> Tree:
    """CP2K input for energy and forces of one frame, as a tree.

    A molecule (no pbc) is moved to the centre of its cubic box, PERIODIC NONE, with the level's
    Poisson solver; a periodic frame keeps its cell, PERIODIC XYZ. Data files are named by their
    absolute paths, so that the input runs anywhere on this machine.

    Args:
        level: the level of theory.
        atoms: the frame, with `info` keys charge and multiplicity.
        data_dir: CP2K's data folder.
        guess: start from the orbitals in `GUESS_FILE` instead of the level's own guess.
        stress: also compute the stress of a periodic frame. Energy and forces stay the same, so
            that it is no part of the level's identity.

    Raises:
        InputError: the frame cannot be computed at this level: see `check_frame`.
    """
    check_frame(level, atoms, data_dir)
    tree = copy.deepcopy(level.tree)
    _set_k_points(tree, level, atoms)
    _set_output(tree)
    if stress and is_possible(atoms):
        _ask_for_stress(tree)
    if guess:
        start_from_guess(tree)
    dft = tree["+FORCE_EVAL"][0]["+DFT"]
    dft["CHARGE"] = atoms.info["charge"]
    dft["MULTIPLICITY"] = atoms.info["multiplicity"]
    if atoms.info["multiplicity"] > 1 and not dft.get("ROKS"):
        dft["UKS"] = True
    _hold_magnetisation(dft)
    _set_data_files(tree, level, data_dir)
    _set_structure(tree, level, atoms)
    return tree


def _set_output(tree: Tree) -> None:
    """Ask for energy and forces, and for the orbitals' file."""
    tree["+GLOBAL"] = tree.get("+GLOBAL", {}) | {
        "PROJECT_NAME": "frame",
        "RUN_TYPE": "ENERGY_FORCE",
        "PRINT_LEVEL": "LOW",
    }
    force_eval = tree["+FORCE_EVAL"][0]
    force_eval["+PRINT"] = {
        # `=` makes CP2K take the name as it is.
        "+FORCES": {"_": "ON", "FILENAME": f"={FORCES_FILE}", "NDIGITS": FORCE_DIGITS}
    }
    dft = force_eval["+DFT"]
    dft["+SCF"] = dft.get("+SCF", {}) | {
        "+PRINT": {"+RESTART": {"_": "ON", "BACKUP_COPIES": 0}, "+RESTART_HISTORY": {"_": "OFF"}}
    }


def _set_k_points(tree: Tree, level: Cp2kLevel, atoms: Atoms) -> None:
    """Give a frame its mesh; of the Γ point alone, orbitals are real and CP2K is faster without."""
    if level.k_spacing_per_A is None:
        return
    numbers = kpoints.mesh(atoms, level.k_spacing_per_A)
    if max(numbers) > 1:
        tree["+FORCE_EVAL"][0]["+DFT"]["+KPOINTS"] = kpoints.section(numbers)


def _hold_magnetisation(dft: Tree) -> None:
    """Keep the multiplicity: smeared electrons would otherwise change their spins."""
    scf = dft["+SCF"]
    if not (has_smearing(dft) and dft.get("UKS")):
        return
    scf["+SMEAR"]["FIXED_MAGNETIC_MOMENT"] = float(dft["MULTIPLICITY"] - 1)
    added = scf["ADDED_MOS"]
    if not isinstance(added, list | tuple):  # of all, -1, CP2K wants to be told for each spin
        scf["ADDED_MOS"] = (added, added)


def _ask_for_stress(tree: Tree) -> None:
    """Compute the stress, analytically unless the level says otherwise, and print it."""
    force_eval = tree["+FORCE_EVAL"][0]
    if str(force_eval.get("STRESS_TENSOR", "NONE")).upper() == "NONE":
        force_eval["STRESS_TENSOR"] = "ANALYTICAL"
    force_eval["+PRINT"]["+STRESS_TENSOR"] = {"_": "ON", "FILENAME": f"={STRESS_FILE}"}


def _set_data_files(tree: Tree, level: Cp2kLevel, data_dir: Path) -> None:
    """Name all data files by their absolute paths."""
    dft = tree["+FORCE_EVAL"][0]["+DFT"]
    for keyword in ("BASIS_SET", "POTENTIAL"):
        paths = [str(path) for path in level.data_file_paths(keyword, data_dir)]
        dft[f"{keyword}_FILE_NAME"] = paths if keyword == "BASIS_SET" else paths[0]
    files = level.data_files(data_dir)
    for branch in branches(dft.get("+XC", {})):
        for name in DATA_KEYWORDS:
            if name in branch:
                branch[name] = str(files[branch[name]])


def _set_structure(tree: Tree, level: Cp2kLevel, atoms: Atoms) -> None:
    """Elements, boundaries, cell and coordinates of the frame."""
    dft, subsys = (tree["+FORCE_EVAL"][0][section] for section in ("+DFT", "+SUBSYS"))
    # Only the elements of this frame: CP2K looks for the data of every KIND in its input.
    symbols = atoms.get_chemical_symbols()
    subsys["+KIND"] = [
        level.kind(element) | {"_": element} for element in sorted(set(symbols), key=symbols.index)
    ]
    periodic = bool(atoms.pbc.all())
    positions = atoms.positions
    if not periodic:
        middle = (positions.max(axis=0) + positions.min(axis=0)) / 2
        positions = positions - middle + atoms.cell.lengths() / 2
    dft["+POISSON"] = dft.get("+POISSON", {}) | {
        "PERIODIC": "XYZ" if periodic else "NONE",
        "POISSON_SOLVER": "PERIODIC" if periodic else level.molecule_solver,
    }
    subsys["+CELL"] = {
        name: tuple(f"{length:.12f}" for length in vector)
        for name, vector in zip("ABC", atoms.cell.array, strict=True)
    } | {"PERIODIC": "XYZ" if periodic else "NONE"}
    subsys["+COORD"] = {
        "*": [
            f"{symbol} {x:.12f} {y:.12f} {z:.12f}"
            for symbol, (x, y, z) in zip(symbols, positions, strict=True)
        ]
    }


def start_from_guess(tree: Tree) -> None:
    """Change a frame's input so that its SCF starts from the orbitals in `GUESS_FILE`."""
    dft = tree["+FORCE_EVAL"][0]["+DFT"]
    dft["WFN_RESTART_FILE_NAME"] = GUESS_FILE
    dft["+SCF"]["SCF_GUESS"] = "RESTART"


def check_frame(level: Cp2kLevel, atoms: Atoms, data_dir: Path) -> None:
    """Check a frame for faults that CP2K would refuse or, worse, not notice.

    Raises:
        InputError: the level lacks an element; charge and multiplicity are impossible with this
            number of electrons; there is no box, or it is too small; some but not all cell vectors
            are periodic, or none with k-points; exact exchange reaches further than half of a
            periodic cell; smeared electrons with open shells and k-points.
    """
    name = f"structure {atoms.info.get('structure', '?')}"
    if not np.isfinite(atoms.positions).all():
        raise InputError(f"{name}: a position is not a finite number")
    _check_box(level, atoms, name)
    _check_magnetisation(level, atoms, name)
    charge, multiplicity = atoms.info["charge"], atoms.info["multiplicity"]
    valence = {
        element: level.valence_electrons(element, data_dir)
        for element in sorted(set(atoms.get_chemical_symbols()))
    }
    electrons = sum(valence[element] for element in atoms.get_chemical_symbols()) - charge
    if electrons < multiplicity - 1 or (electrons - multiplicity + 1) % 2:
        raise InputError(
            f"{name}: charge = {charge}, multiplicity = {multiplicity}: impossible with "
            f"{electrons} valence electrons; expected an {'even' if electrons % 2 else 'odd'} "
            "multiplicity"
        )


def _check_box(level: Cp2kLevel, atoms: Atoms, name: str) -> None:
    if atoms.pbc.all():
        if atoms.cell.rank < 3:
            raise InputError(f"{name}: periodic, but without a cell of three vectors")
        _check_exchange(level, atoms, name)
        return
    if level.k_spacing_per_A is not None:
        raise InputError(
            f"{name}: pbc = {atoms.pbc.tolist()}, with reference.k_spacing_per_A = "
            f"{level.k_spacing_per_A:g}: k-points need a crystal or a slab that is periodic along "
            "all three vectors. Remove k_spacing_per_A, put a cluster beside crystals into a "
            "wide periodic cell, or give molecules a campaign of their own"
        )
    if atoms.pbc.any():
        raise InputError(
            f"{name}: pbc = {atoms.pbc.tolist()}: expected periodic along all three vectors or none"
        )
    extent = float(np.ptp(atoms.positions, axis=0).max())
    # MT needs twice the extent of the density (G. J. Martyna, M. E. Tuckerman, J. Chem. Phys.
    # 110, 2810 (1999)), which ends about WALL_A beyond the nuclei.
    needed = extent + 2 * WALL_A
    if level.molecule_solver == "MT":
        needed = max(needed, 2 * extent)
    if atoms.cell.rank == 0:
        raise InputError(
            f"{name}: no box; CP2K needs `box_A`, the edge of a cubic box around the molecule: "
            f"at least {needed:.1f} Å"
        )
    edge = float(atoms.cell.array[0, 0])
    if not np.allclose(atoms.cell.array, edge * np.eye(3), atol=1e-6):
        raise InputError(
            f"{name}: cell = {atoms.cell.array.tolist()}: a molecule needs a cubic box along the "
            "axes (`box_A`)"
        )
    if edge < needed:
        raise InputError(
            f"{name}: box_A = {edge:g}: the molecule extends over {extent:.2f} Å; expected at "
            f"least {needed:.1f} Å ({level.molecule_solver} Poisson solver, {WALL_A:g} Å between "
            "every nucleus and the wall)"
        )


def _check_magnetisation(level: Cp2kLevel, atoms: Atoms, name: str) -> None:
    """Refuse smeared spins with k-points, whose multiplicity CP2K cannot hold."""
    open_shell = atoms.info["multiplicity"] > 1 or level.dft.get("UKS")
    if level.k_spacing_per_A is None or not (open_shell and has_smearing(level.dft)):
        return
    numbers = kpoints.mesh(atoms, level.k_spacing_per_A)
    if max(numbers) > 1:
        raise InputError(
            f"{name}: multiplicity = {atoms.info['multiplicity']}: CP2K cannot hold it with "
            f"smeared electrons ({level.path}: SCF/SMEAR) and k-points "
            f"({' × '.join(map(str, numbers))}). Expected multiplicity 1 without UKS, no SMEAR, or "
            "a supercell so large that the Γ point is enough"
        )


def _check_exchange(level: Cp2kLevel, atoms: Atoms, name: str) -> None:
    """Refuse exact exchange that does not end within half of a periodic cell.

    Source: M. Guidon, J. Hutter, J. VandeVondele, J. Chem. Theory Comput. 5, 3010 (2009).
    """
    heights = atoms.cell.volume / np.linalg.norm(
        [np.cross(*np.delete(atoms.cell.array, axis, axis=0)) for axis in range(3)], axis=1
    )
    reach = heights.min() / 2
    for exchange in level.dft.get("+XC", {}).get("+HF", []):
        potential = exchange.get("+INTERACTION_POTENTIAL", {})
        potential_type = potential.get("POTENTIAL_TYPE", "COULOMB")
        radius = float(potential.get("CUTOFF_RADIUS", 10.0))
        if potential_type == "TRUNCATED" and radius <= reach:
            continue
        if potential_type in ("SHORTRANGE", "GAUSSIAN"):
            continue
        raise InputError(
            f"{name}: periodic, and {level.path}: FORCE_EVAL/DFT/XC/HF/INTERACTION_POTENTIAL: "
            f"POTENTIAL_TYPE {potential_type}"
            + (f", CUTOFF_RADIUS {radius:g} Å" if potential_type == "TRUNCATED" else "")
            + f": expected TRUNCATED with a radius of at most {reach:.2f} Å, half of the cell's "
            "least height"
        )
