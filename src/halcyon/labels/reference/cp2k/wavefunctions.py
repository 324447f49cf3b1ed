"""Start an SCF from the orbitals of a frame that is like it.

CP2K's orbitals are coefficients of functions that sit on the atoms but keep the directions of the
box. Of a molecule that has turned meanwhile they are a worse guess than none. So each atom's
coefficients are turned with what surrounds that atom: by the rotation that best maps the atom's
surroundings there onto those here. That also follows a turning methyl group. What it gains, and why
a label does not depend on it: docs/decisions/cp2k.md.

Not for: computing anything from orbitals, or keeping them when the frames are labelled.
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
"""Most wavefunctions that are kept; the oldest goes first."""
KEPT_BYTES = 500_000_000
"""Most that they may take together."""
SURROUNDINGS_A = 0.85
"""Width of the Gaussian that weights an atom's neighbours, Å: few more than it is bound to."""
DIRECTIONS = np.random.default_rng(0).normal(size=(64, 3))
SUFFIX = ".wfn"


class Wavefunctions:
    """Orbitals of the frames of a shard that are labelled; they survive a kill."""

    def __init__(self, folder: Path) -> None:
        """Find what a run that was killed left."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        paths = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        self._known = {path: frame for path in paths if (frame := _read_frame(path)) is not None}

    def add(self, key: str, atoms: Atoms, orbitals: Path) -> None:
        """Take the orbitals of a labelled frame over; the file is moved.

        Where that fails, on a full disk, there is one guess less: the label must not be lost to it.
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
            Whether there were any: of the same atoms, cell, charge and multiplicity.
        """
        alike = {path: known for path, known in self._known.items() if _comparable(known, atoms)}
        if not alike:
            return False
        path = min(alike, key=lambda path: difference(alike[path], atoms))
        try:
            content = path.read_bytes()
            content = content if atoms.pbc.any() else turned(content, rotations(alike[path], atoms))
            target.write_bytes(content)
        except (OSError, ValueError):  # torn by a kill, or of a version that writes them otherwise
            self._forget(path)
            target.unlink(missing_ok=True)
            return False
        return True

    def clear(self) -> None:
        """Delete all: the shard is done."""
        for path in list(self._known):
            self._forget(path)

    def _forget(self, path: Path) -> None:
        del self._known[path]
        path.unlink(missing_ok=True)
        path.with_suffix(".npz").unlink(missing_ok=True)


def nearest_first(frames: Sequence[Atoms]) -> list[int]:
    """Order in which the sum of differences of each frame to the nearest before it is least.

    That is the order of R. C. Prim, Bell Syst. Tech. J. 36, 1389 (1957), by which a shortest
    spanning tree grows. Frames that cannot be compared follow in groups.
    """
    if not frames:
        return []
    waiting = dict.fromkeys(range(1, len(frames)), np.inf)
    order = [0]
    while waiting:
        last = frames[order[-1]]
        for index in waiting:
            if _comparable(last, frames[index]):
                waiting[index] = min(waiting[index], difference(last, frames[index]))
        nearest = min(waiting, key=lambda index: waiting[index])
        del waiting[nearest]
        order.append(nearest)
    return order


def difference(one: Atoms, other: Atoms) -> float:
    """How much the surroundings of atoms differ, Å: root mean square over all atoms.

    Of molecules the orientation does not count, of periodic frames it does.
    """
    if one.pbc.any():
        moved, _ = find_mic(one.positions - other.positions, one.cell, one.pbc)
        moved = moved - moved.mean(axis=0)
        return float(np.sqrt((moved**2).sum(axis=1).mean()))
    here, there, weights = _surroundings(one, other)
    turn = _best_rotations(here, there, weights)
    left = np.einsum("aij,abj->abi", turn, here) - there
    return float(np.sqrt((weights * (left**2).sum(axis=2)).sum(axis=1).mean()))


def rotations(one: Atoms, other: Atoms) -> np.ndarray:
    """Per atom, the rotation (N, 3, 3) that best maps its surroundings in one frame onto the other.

    W. Kabsch, Acta Cryst. A32, 922 (1976), with weights.
    """
    return _best_rotations(*_surroundings(one, other))


def turned(content: bytes, turns: np.ndarray) -> bytes:
    """Turn each atom's coefficients in a CP2K wavefunction file.

    Args:
        content: of the file, as `write_mo_set_to_restart` of CP2K's qs_mo_io.F writes it: numbers
            of atoms, spins, functions, sets, shells; sets and shells per atom; functions per
            shell; then for each spin the number of orbitals, their energies and occupations, and a
            record of coefficients for each orbital.
        turns: rotations, shape (N, 3, 3).

    Raises:
        ValueError: the file is not such a file.
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
    written, place = records[:4], 4
    for _ in range(spins):
        if len(records) < place + 2 or len(records[place]) != 16:
            raise ValueError("orbitals are missing")
        (orbitals,) = struct.unpack_from("<i", records[place])
        rows = records[place + 2 : place + 2 + orbitals]
        if len(rows) != orbitals or any(len(row) != 8 * functions for row in rows):
            raise ValueError("orbitals are missing")
        coefficients = np.array([np.frombuffer(row, "<f8") for row in rows]).T
        first = 0
        for turn, size in ((turns[a], n) for a in range(atoms) for n in sizes[a] if n > 0):
            block = slice(first, first + size)
            coefficients[block] = harmonics_turned((size - 1) // 2, turn) @ coefficients[block]
            first += size
        written += records[place : place + 2]
        written += [row.astype("<f8").tobytes() for row in coefficients.T]
        place += 2 + orbitals
    return b"".join(_record(one) for one in written)


def harmonics_turned(degree: int, turn: np.ndarray) -> np.ndarray:
    """Matrix by which coefficients of real spherical harmonics follow a rotation.

    Shape (2 l + 1, 2 l + 1), in CP2K's order: m from -l to l.
    """
    # A function f(x) becomes f(turn⁻¹ x): found from its values in enough directions.
    before = _real_harmonics(degree, DIRECTIONS @ turn)
    return np.linalg.lstsq(_real_harmonics(degree, DIRECTIONS), before, rcond=None)[0]


def _real_harmonics(degree: int, vectors: np.ndarray) -> np.ndarray:
    x, y, z = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    polar, azimuth = np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)
    columns = []
    for m in range(-degree, degree + 1):
        complex_one = sph_harm_y(degree, abs(m), polar, azimuth)
        part = complex_one.imag if m < 0 else complex_one.real
        # The sign undoes that of Condon and Shortley, which CP2K does not have.
        columns.append(part if m == 0 else np.sqrt(2) * (-1) ** m * part)
    return np.stack(columns, axis=1)


def _surroundings(one: Atoms, other: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors (N, N, 3) from each atom's weighted centre to all atoms, in both; weights (N, N)."""
    pairs = [frame.positions[None, :] - frame.positions[:, None] for frame in (one, other)]
    squares = sum((vectors**2).sum(axis=2) for vectors in pairs)
    weights = np.exp(-squares / (4 * SURROUNDINGS_A**2))
    weights /= weights.sum(axis=1, keepdims=True)
    here, there = (v - np.einsum("ab,abi->ai", weights, v)[:, None] for v in pairs)
    return here, there, weights


def _best_rotations(here: np.ndarray, there: np.ndarray, weights: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(np.einsum("ab,abi,abj->aij", weights, there, here))
    signs = np.ones((len(here), 3))
    signs[:, 2] = np.sign(np.linalg.det(left @ right))
    return (left * signs[:, None, :]) @ right


def _comparable(one: Atoms, other: Atoms) -> bool:
    return (
        np.array_equal(one.numbers, other.numbers)
        and np.array_equal(one.pbc, other.pbc)
        and np.allclose(one.cell.array, other.cell.array, atol=1e-6)
        and all(one.info[k] == other.info[k] for k in ("charge", "multiplicity"))
        and bool(np.isfinite([one.positions, other.positions]).all())
    )


def _records(content: bytes) -> Iterator[bytes]:
    """Records of a sequential unformatted Fortran file, each between two counts of its bytes."""
    place = 0
    while place < len(content):
        if place + 8 > len(content):
            raise ValueError("torn record")
        (size,) = struct.unpack_from("<i", content, place)
        end = place + 4 + size
        if size < 0 or end + 4 > len(content) or content[end : end + 4] != struct.pack("<i", size):
            raise ValueError("torn record")
        yield content[place + 4 : end]
        place = end + 4


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
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as read:
            atoms = Atoms(read["numbers"], read["positions"], cell=read["cell"], pbc=read["pbc"])
            charge, multiplicity = read["spin"]
    except (OSError, ValueError, KeyError):
        return None
    atoms.info = {"charge": int(charge), "multiplicity": int(multiplicity)}
    return atoms
