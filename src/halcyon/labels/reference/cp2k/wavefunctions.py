"""Start an SCF from the orbitals of a similar frame.

    from pathlib import Path
    from halcyon.labels.reference.cp2k.wavefunctions import Wavefunctions

    wavefunctions = Wavefunctions(Path("work/wavefunctions"))
    wavefunctions.guess(atoms, Path("work/guess.wfn"))  # False

CP2K's orbitals are coefficients of functions that are centred on the atoms but oriented along the
axes of the box. Where a molecule has turned since, they are a worse guess than none. So each atom's
coefficients are turned by the rotation that best maps the atom's surroundings in the labelled frame
onto those in the new frame. This also follows a methyl group that turns by itself.
docs/decisions/cp2k.md: the time it saves, and why a label does not depend on the guess.

Not for: computing anything from orbitals, or keeping them once the label job is done.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from scipy.special import sph_harm_y

from halcyon import files

KEPT = 64
"""Largest number of wavefunctions that are kept; the oldest is deleted first."""
KEPT_BYTES = 500_000_000
"""Largest size of all kept wavefunctions together."""
SURROUNDINGS_A = 0.85
"""Width of the Gaussian that weights an atom's neighbours, Å; mainly bonded atoms count."""
DIRECTIONS = np.random.default_rng(0).normal(size=(64, 3))
"""Points at which spherical harmonics are compared; any will do if they are enough."""
SUFFIX = ".wfn"


class Wavefunctions:
    """Orbitals of a label job's labelled frames, in a folder that survives a kill."""

    def __init__(self, folder: Path) -> None:
        """Read what an earlier run, killed before its end, has left in the folder."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        paths = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        self._known = {path: frame for path in paths if (frame := _read_frame(path)) is not None}

    def add(self, key: str, atoms: Atoms, orbitals: Path) -> None:
        """Keep the orbitals of a labelled frame; the file is moved.

        Where that fails, on a full disk, they are given up: the label must not be lost to it.
        """
        path = self._folder / f"{key}{SUFFIX}"
        self._known.pop(path, None)
        self._known[path] = atoms.copy()
        try:
            _write_frame(path, atoms)
            orbitals.replace(path)
        except OSError:
            self._forget(path)
            return
        sizes = {known: known.stat().st_size for known in self._known}
        while len(sizes) > KEPT or (len(sizes) > 1 and sum(sizes.values()) > KEPT_BYTES):
            oldest = next(iter(sizes))
            del sizes[oldest]
            self._forget(oldest)

    def guess(self, atoms: Atoms, target: Path) -> bool:
        """Write orbitals for a frame, from those of the most similar one.

        Returns:
            Whether there is a frame with the same atoms, cell, charge and multiplicity.
        """
        comparable = {
            path: known for path, known in self._known.items() if _comparable(known, atoms)
        }
        if not comparable:
            return False
        path = min(comparable, key=lambda path: difference(comparable[path], atoms))
        try:
            content = path.read_bytes()
            if not atoms.pbc.any():
                content = turned(content, rotations(comparable[path], atoms))
            target.write_bytes(content)
        except (OSError, ValueError):  # incomplete after a kill, or of an unknown version of CP2K
            self._forget(path)
            target.unlink(missing_ok=True)
            return False
        return True

    def clear(self) -> None:
        """Delete all wavefunctions: the label job is done."""
        for path in list(self._known):
            self._forget(path)

    def _forget(self, path: Path) -> None:
        del self._known[path]
        path.unlink(missing_ok=True)
        path.with_suffix(".npz").unlink(missing_ok=True)


def nearest_first(frames: Sequence[Atoms]) -> list[int]:
    """Order in which each frame is close to one before it: the sum of these differences is least.

    A shortest spanning tree grows in this order: R. C. Prim, Bell Syst. Tech. J. 36, 1389 (1957).
    Frames that cannot be compared follow in groups.

    Returns:
        A permutation of the frames' indices; it begins with the first frame.
    """
    if not frames:
        return []
    to_nearest = dict.fromkeys(range(1, len(frames)), np.inf)
    order = [0]
    while to_nearest:
        last = frames[order[-1]]
        for index in to_nearest:
            if _comparable(last, frames[index]):
                to_nearest[index] = min(to_nearest[index], difference(last, frames[index]))
        nearest = min(to_nearest, key=lambda index: to_nearest[index])
        del to_nearest[nearest]
        order.append(nearest)
    return order


def difference(first: Atoms, second: Atoms) -> float:
    """How much the surroundings of atoms differ, Å: root mean square over all atoms.

    The orientation of a molecule does not count; that of a periodic frame does.
    """
    if first.pbc.any():
        moved, _ = find_mic(first.positions - second.positions, first.cell, first.pbc)
        moved = moved - moved.mean(axis=0)
        return float(np.sqrt((moved**2).sum(axis=1).mean()))
    vectors, targets, weights = _surroundings(first, second)
    turn = _best_rotations(vectors, targets, weights)
    errors = np.einsum("aij,abj->abi", turn, vectors) - targets
    return float(np.sqrt((weights * (errors**2).sum(axis=2)).sum(axis=1).mean()))


def rotations(first: Atoms, second: Atoms) -> np.ndarray:
    """For each atom, the rotation that best maps its surroundings in `first` onto `second`.

    Source: W. Kabsch, Acta Cryst. A32, 922 (1976), here with weights.

    Returns:
        Shape (N, 3, 3).
    """
    return _best_rotations(*_surroundings(first, second))


def turned(content: bytes, turns: np.ndarray) -> bytes:
    """Turn each atom's coefficients in a CP2K wavefunction file.

    Args:
        content: of the file, as `write_mo_set_to_restart` of CP2K's qs_mo_io.F writes it: numbers
            of atoms, spins, functions, sets, shells; sets and shells per atom; functions per
            shell; then for each spin the number of orbitals, their energies and occupations, and a
            record of coefficients for each orbital.
        turns: a rotation for each atom, shape (N, 3, 3).

    Raises:
        ValueError: the file has another format, or is incomplete.
    """
    records = list(_records(content))
    if len(records) < 4 or len(records[0]) != 20:
        raise ValueError("not a wavefunction file of CP2K")
    atoms, spins, functions, sets, shells = struct.unpack("<5i", records[0])
    if len(records[3]) != 4 * atoms * sets * shells or len(turns) != atoms:
        raise ValueError(f"a wavefunction of {atoms} atoms")
    sizes = np.frombuffer(records[3], "<i4").reshape(atoms, -1)
    if sizes.sum() != functions or (sizes[sizes > 0] % 2 == 0).any():
        raise ValueError("shells are not of spherical functions")
    turned_records, position = records[:4], 4
    for _ in range(spins):
        if len(records) < position + 2 or len(records[position]) != 16:
            raise ValueError("orbitals are missing")
        (orbitals,) = struct.unpack_from("<i", records[position])
        rows = records[position + 2 : position + 2 + orbitals]
        if len(rows) != orbitals or any(len(row) != 8 * functions for row in rows):
            raise ValueError("orbitals are missing")
        coefficients = np.array([np.frombuffer(row, "<f8") for row in rows]).T
        first = 0
        for turn, size in ((turns[a], n) for a in range(atoms) for n in sizes[a] if n > 0):
            block = slice(first, first + size)
            coefficients[block] = harmonics_turned((size - 1) // 2, turn) @ coefficients[block]
            first += size
        turned_records += records[position : position + 2]
        turned_records += [row.astype("<f8").tobytes() for row in coefficients.T]
        position += 2 + orbitals
    return b"".join(_record(record) for record in turned_records)


def harmonics_turned(degree: int, turn: np.ndarray) -> np.ndarray:
    """Matrix that turns coefficients of real spherical harmonics by a rotation.

    Args:
        degree: l of the harmonics.
        turn: the rotation, shape (3, 3).

    Returns:
        Shape (2 l + 1, 2 l + 1), in CP2K's order: m from -l to l.
    """
    # A function f(x) becomes f(turn⁻¹ x). Its coefficients are fitted to its values at DIRECTIONS.
    before = _real_harmonics(degree, DIRECTIONS @ turn)
    return np.linalg.lstsq(_real_harmonics(degree, DIRECTIONS), before, rcond=None)[0]


def _real_harmonics(degree: int, vectors: np.ndarray) -> np.ndarray:
    x, y, z = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    polar, azimuth = np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)
    columns = []
    for m in range(-degree, degree + 1):
        harmonic = sph_harm_y(degree, abs(m), polar, azimuth)
        part = harmonic.imag if m < 0 else harmonic.real
        # The sign removes the phase of Condon and Shortley, which CP2K does not use.
        columns.append(part if m == 0 else np.sqrt(2) * (-1) ** m * part)
    return np.stack(columns, axis=1)


def _surroundings(first: Atoms, second: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each atom's surroundings in two frames.

    Returns:
        Vectors from the weighted centre of each atom's surroundings to all atoms, Å, shape
        (N, N, 3), in the first and in the second frame; the weights that both share, shape (N, N).
    """
    pairs = [frame.positions[None, :] - frame.positions[:, None] for frame in (first, second)]
    squares = sum((vectors**2).sum(axis=2) for vectors in pairs)
    weights = np.exp(-squares / (4 * SURROUNDINGS_A**2))
    weights /= weights.sum(axis=1, keepdims=True)
    of_first, of_second = (v - np.einsum("ab,abi->ai", weights, v)[:, None] for v in pairs)
    return of_first, of_second, weights


def _best_rotations(vectors: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rotations (N, 3, 3) that best map the vectors of each atom onto its targets, (N, N, 3)."""
    u, _, vt = np.linalg.svd(np.einsum("ab,abi,abj->aij", weights, targets, vectors))
    signs = np.ones((len(vectors), 3))
    signs[:, 2] = np.sign(np.linalg.det(u @ vt))  # a rotation, never a reflection
    return (u * signs[:, None, :]) @ vt


def _comparable(first: Atoms, second: Atoms) -> bool:
    """Whether one frame's orbitals can be a guess for the other."""
    return (
        np.array_equal(first.numbers, second.numbers)
        and np.array_equal(first.pbc, second.pbc)
        and np.allclose(first.cell.array, second.cell.array, atol=1e-6)
        and all(first.info[k] == second.info[k] for k in ("charge", "multiplicity"))
        and bool(np.isfinite([first.positions, second.positions]).all())
    )


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the records of an unformatted Fortran file, each between two counts of its bytes."""
    position = 0
    while position < len(content):
        if position + 8 > len(content):
            raise ValueError("incomplete record")
        (size,) = struct.unpack_from("<i", content, position)
        end = position + 4 + size
        if size < 0 or end + 4 > len(content) or content[end : end + 4] != struct.pack("<i", size):
            raise ValueError("incomplete record")
        yield content[position + 4 : end]
        position = end + 4


def _record(content: bytes) -> bytes:
    count = struct.pack("<i", len(content))
    return count + content + count


def _write_frame(path: Path, atoms: Atoms) -> None:
    with (
        files.replacing(path.with_suffix(".npz")) as temporary,
        temporary.open("wb") as target,
    ):
        np.savez(
            target,
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            spin=[atoms.info["charge"], atoms.info["multiplicity"]],
        )


def _read_frame(path: Path) -> Atoms | None:
    try:
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as saved:
            atoms = Atoms(
                saved["numbers"], saved["positions"], cell=saved["cell"], pbc=saved["pbc"]
            )
            charge, multiplicity = saved["spin"]
    except (OSError, ValueError, KeyError):
        return None
    atoms.info = {"charge": int(charge), "multiplicity": int(multiplicity)}
    return atoms
