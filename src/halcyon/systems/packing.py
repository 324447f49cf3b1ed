"""Many molecules in one box: mixtures, liquids and clusters, packed by Packmol.

    from halcyon.config import StructureSettings
    from halcyon.systems.packing import packed_structure

    water = StructureSettings(name="water", smiles="O")
    box = StructureSettings(name="box", pack={"water": 8}, density_g_per_cm3=0.9)
    atoms = packed_structure(box, {"water": water}, seed=1)

The molecules lie at random; atoms of different molecules are at least 2 Å apart, over periodic
boundaries too. The same seed gives the same box. Atoms are listed molecule by molecule, in the
order of `pack`.

L. Martínez, R. Andrade, E. G. Birgin, J. M. Martínez, J. Comput. Chem. 30, 2157 (2009).

Not for: a liquid in equilibrium; the teacher's dynamics equilibrate it.
"""

import functools
import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from halcyon.config import StructureSettings
from halcyon.errors import InputError
from halcyon.frames import read_frames, structure_only, write_frames
from halcyon.systems.structures import (
    bonds,
    check_overlap,
    check_spin,
    put_in_box,
    refuse,
    start_structure,
)

TOLERANCE_A = 2.0
"""Least distance between atoms of different molecules, Å."""
SLACK_A = 0.05
"""Packmol may leave atoms closer than `TOLERANCE_A` by this, Å."""
MAX_LOOPS = 50
"""Packmol stops after so many loops; a liquid takes fewer than ten."""
TIMEOUT_S = 600
"""Time limit of Packmol, s."""
DENSITY_OF_1_U_PER_A3 = 1.66053906660
"""1 u/Å³ in g/cm³."""


def packed_structure(
    settings: StructureSettings,
    structures: Mapping[str, StructureSettings],
    *,
    seed: int,
    cache: Path | None = None,
) -> Atoms:
    """Pack molecules into a cubic cell.

    Args:
        settings: the structure to make; its `pack` gives the number of each molecule.
        structures: all structures of the system, by name.
        seed: of Packmol's random numbers.
        cache: folder where packed boxes are stored and looked up; None: no cache.

    Returns:
        Atoms with `info` keys charge (e), multiplicity and structure.

    Raises:
        InputError: the molecules do not fit, their charges do not add up to the structure's, or
            Packmol is missing.
    """
    parts = {name: start_structure(structures[name]) for name in settings.pack}
    charge = sum(parts[name].info["charge"] * count for name, count in settings.pack.items())
    if charge != settings.charge:
        expected = f"expected {charge}, the sum over the molecules of `pack`"
        refuse(settings, "charge", settings.charge, expected)
    atoms = Atoms()
    for name, count in settings.pack.items():
        for _ in range(count):
            atoms += Atoms(parts[name].numbers, positions=parts[name].positions)
    atoms.info = {
        "charge": settings.charge,
        "multiplicity": settings.multiplicity,
        "structure": settings.name,
    }
    check_spin(settings, atoms)
    edge = edge_A(settings, atoms)
    atoms.cell, atoms.pbc = [edge] * 3, bool(settings.is_periodic)
    _check_room(settings, parts, edge)
    atoms.positions = _positions(settings, parts, atoms, edge=edge, seed=seed, cache=cache)
    _check_distances(settings, parts, atoms)
    check_overlap(settings, atoms)
    if not settings.is_periodic:
        atoms.cell = None
        if settings.box_A is not None:
            put_in_box(settings, atoms, settings.box_A)
    return atoms


def packed_bonds(
    settings: StructureSettings, structures: Mapping[str, StructureSettings]
) -> list[tuple[int, int]]:
    """Bonded atoms of a packed structure: the bonds of each of its molecules.

    Returns:
        Pairs (i, j) with i < j, sorted.
    """
    pairs, begin = [], 0
    for name, count in settings.pack.items():
        part = start_structure(structures[name])
        inside = bonds(structures[name], part)
        for _ in range(count):
            pairs += [(i + begin, j + begin) for i, j in inside]
            begin += len(part)
    return sorted(pairs)


def edge_A(settings: StructureSettings, atoms: Atoms) -> float:  # noqa: N802 (the unit)
    """Edge of the cube that a structure's atoms are packed into, Å."""
    if settings.density_g_per_cm3 is None:
        if settings.box_A is None:
            raise ValueError(f"structure {settings.name}: neither density_g_per_cm3 nor box_A")
        return settings.box_A
    mass = float(atoms.get_masses().sum())
    return float(np.cbrt(mass * DENSITY_OF_1_U_PER_A3 / settings.density_g_per_cm3))


def _check_room(settings: StructureSettings, parts: Mapping[str, Atoms], edge: float) -> None:
    """Refuse a cell that is smaller than a molecule, before Packmol searches for minutes."""
    for name, part in parts.items():
        length = float(part.get_all_distances().max())
        if edge < length + TOLERANCE_A:
            _refuse_density(
                settings,
                f"the cell's edge is {edge:.1f} Å; {name} is {length:.1f} Å long and needs "
                f"{TOLERANCE_A:g} Å to its neighbour. Pack more molecules, or choose a lower "
                "density",
            )


def _refuse_density(settings: StructureSettings, expected: str) -> None:
    key = "box_A" if settings.density_g_per_cm3 is None else "density_g_per_cm3"
    refuse(settings, key, getattr(settings, key), expected)


def _positions(
    settings: StructureSettings,
    parts: Mapping[str, Atoms],
    atoms: Atoms,
    *,
    edge: float,
    seed: int,
    cache: Path | None,
) -> np.ndarray:
    """Positions of all atoms, Å, shape (N, 3): from the cache, else from Packmol."""
    files = tuple(_xyz(part) for part in parts.values())
    program = _program(settings, edge=edge, seed=seed)
    key = hashlib.sha256("\n".join([program, *files]).encode()).hexdigest()[:16]
    cached = None if cache is None else cache / f"packed-{key}.parquet"
    if cached is not None and cached.exists():
        (packed,) = read_frames(cached)
        return packed.positions
    try:
        positions = _run(program, files)
    except _CannotPackError as error:
        _refuse_density(
            settings,
            f"Packmol cannot pack {len(atoms)} atoms into a cube of {edge:.1f} Å ({error}). Choose "
            "a lower density",
        )
        raise
    if cached is not None:
        packed = structure_only(atoms)
        packed.positions = positions
        write_frames(cached, [packed])
    return positions


def _program(settings: StructureSettings, *, edge: float, seed: int) -> str:
    """Packmol's input."""
    box = f"0. 0. 0. {edge:.6f} {edge:.6f} {edge:.6f}"
    # Packmol takes the seed -1 for: choose one; its integers have 32 bits.
    lines = [f"tolerance {TOLERANCE_A}", f"seed {seed % (2**31 - 1) + 1}", "filetype xyz"]
    lines += ["output packed.xyz", f"nloop {MAX_LOOPS}"]
    if settings.is_periodic:
        lines += [f"pbc {box}"]
    for number, count in enumerate(settings.pack.values()):
        lines += [f"structure {number}.xyz", f"  number {count}"]
        if not settings.is_periodic:
            lines += [f"  inside box {box}"]
        lines += ["end structure"]
    return "\n".join([*lines, ""])


class _CannotPackError(Exception):
    """Packmol found no solution; the message is Packmol's."""


@functools.lru_cache(maxsize=16)
def _run(program: str, molecules: tuple[str, ...]) -> np.ndarray:
    """Run Packmol on its input and the molecules' xyz files; positions, Å, shape (N, 3)."""
    with tempfile.TemporaryDirectory(prefix="halcyon-packmol-") as name:
        folder = Path(name)
        for number, text in enumerate(molecules):
            (folder / f"{number}.xyz").write_text(text, encoding="utf-8")
        (folder / "packmol.inp").write_text(program, encoding="utf-8")
        try:
            with (folder / "packmol.inp").open(encoding="utf-8") as stdin:  # it seeks in its input
                done = subprocess.run(
                    [_packmol()],
                    stdin=stdin,
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT_S,
                    check=False,
                )
        except subprocess.TimeoutExpired:
            raise _CannotPackError(f"not within {TIMEOUT_S} s") from None
        written = folder / "packed.xyz"
        if done.returncode or not written.exists():
            lines = [line.strip(" *!") for line in done.stdout.splitlines()]
            wrong = [line for line in lines if "ERROR" in line or "not" in line.lower()]
            reason = (wrong or ["it gave no reason"])[-1]
            if "not able to find a solution" in reason:  # the sentence goes on in the next line
                reason = f"it found no solution in {MAX_LOOPS} loops"
            raise _CannotPackError(reason)
        packed = next(ase.io.iread(written))
    positions: np.ndarray = packed.positions
    positions.setflags(write=False)  # the cache of this function hands out the same array again
    return positions


def _packmol() -> str:
    """Path of Packmol: on PATH, else beside this Python, where pip puts it."""
    beside = Path(sys.executable).with_name("packmol")
    program = shutil.which("packmol") or (str(beside) if beside.exists() else None)
    if program is None:
        raise InputError(
            "`pack` needs the program packmol, which is neither on PATH nor beside this Python. "
            "Install it: pip install packmol"
        )
    return program


def _xyz(atoms: Atoms) -> str:
    text = io.StringIO()
    ase.io.write(text, Atoms(atoms.numbers, positions=atoms.positions), format="xyz")
    return text.getvalue()


def _check_distances(settings: StructureSettings, parts: Mapping[str, Atoms], atoms: Atoms) -> None:
    """Check for overlaps: Packmol may leave some and only warn."""
    sizes = [len(parts[name]) for name, count in settings.pack.items() for _ in range(count)]
    molecule = np.repeat(np.arange(len(sizes)), sizes)
    first, second, shift, distance = neighbor_list("ijSd", atoms, TOLERANCE_A - SLACK_A)
    # A periodic image of a molecule counts as another molecule.
    apart = (molecule[first] != molecule[second]) | shift.any(axis=1)
    if apart.any():
        _refuse_density(
            settings,
            f"Packmol leaves molecules {distance[apart].min():.2f} Å apart, expected "
            f"{TOLERANCE_A:g} Å. Choose a lower density",
        )
