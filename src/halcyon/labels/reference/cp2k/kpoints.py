"""k-points: the mesh of a periodic frame, and what cannot be computed with one.

    from ase.build import bulk
    from halcyon.labels.reference.cp2k.kpoints import mesh

    mesh(bulk("MgO", "rocksalt", a=4.21), 0.4)  # (7, 7, 7)
    mesh(bulk("MgO", "rocksalt", a=4.21).repeat((7, 7, 7)), 0.4)  # (1, 1, 1)

A level of theory has a spacing of k-points, not a mesh: so it means the same for a cell and for its
supercell. The meshes contain the Γ point: a mesh and the supercell that it stands for have the same
energy per atom, and a mesh has the symmetry of any crystal, which the even ones of Monkhorst and
Pack (Phys. Rev. B 13, 5188, 1976) lack in hexagonal and face-centred cells.

Not for: writing the input (`input`), or smearing alone (`consistency`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from halcyon.errors import InputError
from halcyon.labels.reference.cp2k.tree import Tree
from halcyon.systems.fixed import vacuum_A

VACUUM_A = 6.0
"""Across a gap this wide along the third cell vector, Å, orbitals do not feel their image: one
k-point."""
BREATH = 0.03
"""Relative change of a cell's edges in which its mesh should stay the same."""
ROUNDING = 1e-6
"""A spacing that is too wide by less, relatively, is as good as fine enough."""


def mesh(atoms: Atoms, spacing_per_A: float) -> tuple[int, int, int]:
    """Number of k-points along each reciprocal vector, at most a spacing apart.

    Args:
        atoms: a frame with three cell vectors.
        spacing_per_A: 1/Å, with the 2π of reciprocal vectors in it.
    """
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    numbers = np.ceil(2 * np.pi / heights / spacing_per_A - ROUNDING).astype(int)
    first, second, third = (max(1, int(number)) for number in numbers)
    return first, second, 1 if vacuum_A(atoms) > VACUUM_A else third


def section(numbers: tuple[int, int, int]) -> Tree:
    """CP2K's section KPOINTS of a mesh that contains the Γ point.

    Monkhorst's and Pack's scheme leaves Γ out where a number is even; a shift of half a step
    (scheme MACDONALD: A. H. MacDonald, Phys. Rev. B 18, 5897, 1978) brings it back.
    """
    shifts = [0.5 / number if number % 2 == 0 else 0.0 for number in numbers]
    return {"SCHEME": ("MACDONALD", *numbers, *shifts)}


def check_level(path: Path, dft: Tree) -> None:
    """Refuse what CP2K cannot compute with k-points.

    Args:
        path: file of the level, for the message.
        dft: its section DFT.

    Raises:
        InputError: the message has section and keyword, and what to write.
    """
    scf, xc, qs = dft.get("+SCF", {}), dft.get("+XC", {}), dft.get("+QS", {})
    diagonalisation = str(scf.get("+DIAGONALIZATION", {}).get("ALGORITHM", "STANDARD")).upper()
    for where, excluded, instead in (
        (
            "SCF/OT",
            "+OT" in scf,
            "write sections SCF/DIAGONALIZATION and SCF/MIXING (config/cp2k/pbe-solid.yaml has "
            "them)",
        ),
        (
            f"SCF/DIAGONALIZATION: ALGORITHM = {diagonalisation}",
            diagonalisation != "STANDARD",
            "write STANDARD",
        ),
        ("XC/HF: exact exchange", bool(xc.get("+HF")), "use a functional without it"),
        (
            "AUXILIARY_DENSITY_MATRIX_METHOD",
            "+AUXILIARY_DENSITY_MATRIX_METHOD" in dft,
            "remove the section",
        ),
        ("ROKS", bool(dft.get("ROKS")), "write UKS"),
        (
            f"QS: METHOD = {qs.get('METHOD', 'GPW')}",
            qs.get("METHOD", "GPW") not in ("GPW", "GAPW"),
            "write GPW or GAPW",
        ),
        ("QS: LS_SCF", bool(qs.get("LS_SCF")), "remove the keyword"),
    ):
        if excluded:
            raise InputError(
                f"{path}: FORCE_EVAL/DFT/{where}: not with k-points "
                f"(reference.k_spacing_per_A); {instead}, or use a larger cell without k-points"
            )


def check_meshes(structures: Sequence[Atoms], spacing_per_A: float) -> None:
    """Refuse a spacing at which the mesh would change as the cell breathes.

    The energy steps where the number of k-points does: no stress fits that.

    Args:
        structures: start structures, all periodic.
        spacing_per_A: 1/Å.

    Raises:
        InputError: it names the structure, and a spacing that suits all.
    """
    changing = [atoms for atoms in structures if not _is_steady(atoms, spacing_per_A)]
    better = steady_spacing(structures, spacing_per_A)
    if not changing or better is None:
        return
    atoms = changing[0]
    small, large = (
        " × ".join(map(str, mesh(_scaled(atoms, factor), spacing_per_A)))
        for factor in (1 + BREATH, 1 - BREATH)
    )
    raise InputError(
        f"structure {atoms.info.get('structure', '?')}: reference.k_spacing_per_A = "
        f"{spacing_per_A:g}: the mesh of k-points is {small} or {large} where the cell is "
        f"{BREATH:.0%} longer or shorter, and the energy would step between. Expected a spacing "
        f"whose mesh stays the same, e.g. {better:g}"
    )


def steady_spacing(structures: Sequence[Atoms], spacing_per_A: float) -> float | None:
    """The largest spacing up to a given one whose meshes stay the same as the cells breathe, 1/Å.

    None: there is no such spacing above half of it; meshes are then so fine that a k-point more or
    less does not matter.
    """
    spacings = np.linspace(spacing_per_A, spacing_per_A / 2, 201).round(4).tolist()
    steady = (s for s in spacings if all(_is_steady(atoms, s) for atoms in structures))
    return next(steady, None)


def _is_steady(atoms: Atoms, spacing_per_A: float) -> bool:
    numbers = {mesh(_scaled(atoms, 1 + strain), spacing_per_A) for strain in (-BREATH, 0.0, BREATH)}
    return len(numbers) == 1


def _scaled(atoms: Atoms, factor: float) -> Atoms:
    scaled = atoms.copy()
    scaled.set_cell(atoms.cell.array * factor, scale_atoms=True)
    return scaled
