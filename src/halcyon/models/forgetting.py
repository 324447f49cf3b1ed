"""What a fine-tuning forgot: walls of the start model and of the model that was made of it.

Labels of calm dynamics say nothing of atoms that are pressed together or pulled apart. Two kinds of
scan show what became of the start model's answer there:

- `dimer`: two atoms alone, for each pair of the system's elements, from `INNERMOST` of the sum of
  their covalent radii (B. Cordero et al., Dalton Trans. 2008, 2832) to `OUTERMOST_A`;
- `bond`: a bond of each pair of atom classes, from 0.6 to 1.8 times its length, what hangs on it
  moved along as a rigid body.

A model's zero of energy means nothing, so both energies of a scan are counted from the distance
at which that of the start model is least, beyond `BONDED` of the sum of covalent radii. The start
model is no truth: a difference says that the model has changed, and a wall that turns says that it
has a hole.

    from halcyon.models.forgetting import compared, dimers, frames_of
    from halcyon.models.mace import evaluate

    scans = dimers([1, 8])
    energies = [nodes.sum() for nodes in evaluate("m.model", frames_of(scans)).node_energy]
    compared(scans, energies, energies).scans[0].rms_above_eV

Not for: evaluating models (see `mace`), or features that moved (see `drift`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.geometry import find_mic
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from halcyon.verdict.forms import Form

INNERMOST = 0.4
"""Least distance of a dimer, in sums of covalent radii."""
OUTERMOST_A = 3.0
"""Greatest distance of a dimer, Å."""
STEP_A = 0.05
"""Between two distances of a dimer, Å."""
STRETCH = np.linspace(0.6, 1.8, 25)
"""Lengths of a scanned bond, in its length in the start structure."""
BONDED = 0.9
"""The energies' zero lies no further in than this, in sums of covalent radii."""
WALL_EV = 1.0
"""Above it, a point of the start model's scan belongs to the wall, eV."""
HIGHEST_EV = 30.0
"""Points of the start model above it are not compared, eV: no dynamics gets there."""
MOST_BONDS = 12
"""So many bonds are scanned at most of each structure."""
LEAST_FALL_EV = 1e-3
"""A wall turns where going in lowers its energy by more, eV."""


@dataclass(frozen=True)
class Scan:
    """Frames along a distance.

    Attributes:
        kind: see the module.
        name: for people.
        radii_A: sum of the two atoms' covalent radii, Å.
        distances_A: ascending, Å, shape (n,).
        frames: one for each distance.
    """

    kind: Literal["dimer", "bond"]
    name: str
    radii_A: float
    distances_A: np.ndarray
    frames: list[Atoms]


class WallScan(Form):
    """Energies of two models along a scan.

    Attributes:
        kind: `dimer` or `bond`.
        name: the two elements, or the structure and the two atoms.
        distances_A: ascending, Å.
        before_eV: energies of the start model, eV.
        after_eV: energies of the fine-tuned model, eV.
        rms_below_eV: root-mean-square difference where the start model is at most `wall_eV`, eV;
            None: it is nowhere.
        rms_above_eV: the same where it is above, up to `highest_eV`.
        turns_before_A: greatest distance, inside the minimum, at which the start model's energy
            begins to fall on the way in, Å; None: it rises to the end.
        turns_after_A: that of the fine-tuned model.
    """

    kind: Literal["dimer", "bond"]
    name: str
    distances_A: list[float]
    before_eV: list[float]
    after_eV: list[float]
    rms_below_eV: float | None
    rms_above_eV: float | None
    turns_before_A: float | None
    turns_after_A: float | None


class Forgetting(Form):
    """Walls before and after a fine-tuning.

    Attributes:
        wall_eV: above it, a point belongs to the wall, eV.
        highest_eV: points of the start model above it are not compared, eV.
        scans: dimers, then bonds.
    """

    wall_eV: float
    highest_eV: float
    scans: list[WallScan]

    def median_rms_above(self, kind: Literal["dimer", "bond"]) -> float | None:
        """Median over scans of the difference on the wall, eV; None: no scan has a wall."""
        values = [s.rms_above_eV for s in self.scans if s.kind == kind]
        known = [value for value in values if value is not None]
        return float(np.median(known)) if known else None


def dimers(elements: Sequence[int]) -> list[Scan]:
    """Two atoms alone, for each pair of elements.

    Args:
        elements: atomic numbers.
    """
    scans = []
    for pair in itertools.combinations_with_replacement(sorted(set(elements)), 2):
        radii = float(covalent_radii[list(pair)].sum())
        distances = np.arange(INNERMOST * radii, OUTERMOST_A, STEP_A)
        frames = [Atoms(pair, [[0, 0, 0], [0, 0, distance]]) for distance in distances]
        name = "–".join(chemical_symbols[z] for z in pair)
        scans.append(Scan("dimer", name, radii, distances, frames))
    return scans


def bond_stretches(
    structure: str, start: Atoms, bonds: Sequence[tuple[int, int]], classes: Sequence[str]
) -> list[Scan]:
    """A bond of each pair of atom classes, stretched and compressed.

    Args:
        structure: its name.
        start: its start structure.
        bonds: pairs of indices.
        classes: of each atom.
    """
    first_of: dict[tuple[str, ...], tuple[int, int]] = {}
    for i, j in bonds:
        first_of.setdefault(tuple(sorted((classes[i], classes[j]))), (int(i), int(j)))
    return [
        _stretched(structure, start, bond, bonds) for bond in list(first_of.values())[:MOST_BONDS]
    ]


def _stretched(
    structure: str, start: Atoms, bond: tuple[int, int], bonds: Sequence[tuple[int, int]]
) -> Scan:
    i, j = bond
    vector, length = find_mic(start.positions[j] - start.positions[i], start.cell, start.pbc)
    moved = beyond(len(start), bond, bonds)
    frames = []
    for factor in STRETCH:
        frame = Atoms(start.numbers, start.positions, cell=start.cell, pbc=start.pbc)
        frame.positions[moved] += (factor - 1) * vector
        frames.append(frame)
    symbols = start.get_chemical_symbols()
    name = f"{structure}: {symbols[i]}{i}–{symbols[j]}{j}"
    radii = float(covalent_radii[start.numbers[[i, j]]].sum())
    return Scan("bond", name, radii, STRETCH * float(length), frames)


def beyond(number: int, bond: tuple[int, int], bonds: Sequence[tuple[int, int]]) -> np.ndarray:
    """Atoms that move with the second atom of a bond; in a ring, that atom alone.

    Args:
        number: of all atoms.
        bond: the bond.
        bonds: all bonds, this one too.
    """
    others = np.array([b for b in bonds if set(b) != set(bond)], dtype=int).reshape(-1, 2)
    graph = coo_array((np.ones(len(others)), (others[:, 0], others[:, 1])), shape=(number, number))
    part = connected_components(graph, directed=False)[1]
    if part[bond[0]] == part[bond[1]]:
        return np.array([bond[1]])
    return np.flatnonzero(part == part[bond[1]])


def frames_of(scans: Sequence[Scan]) -> list[Atoms]:
    """Frames of all scans, in their order."""
    return [frame for scan in scans for frame in scan.frames]


def compared(scans: Sequence[Scan], before: Sequence[float], after: Sequence[float]) -> Forgetting:
    """What the energies of two models along scans say.

    Args:
        scans: at least one. A scan with an energy that is not finite is left out.
        before: interaction energies of `frames_of(scans)` by the start model, eV.
        after: those by the fine-tuned one.
    """
    ends = np.cumsum([len(scan.frames) for scan in scans])[:-1]
    parts = zip(
        scans, np.split(np.array(before), ends), np.split(np.array(after), ends), strict=True
    )
    walls = [
        _wall(scan, old, new)
        for scan, old, new in parts
        if np.isfinite(old).all() and np.isfinite(new).all()
    ]
    return Forgetting(wall_eV=WALL_EV, highest_eV=HIGHEST_EV, scans=walls)


def _wall(scan: Scan, before: np.ndarray, after: np.ndarray) -> WallScan:
    beyond = np.flatnonzero(scan.distances_A >= min(BONDED * scan.radii_A, scan.distances_A[-1]))
    zero = int(beyond[np.argmin(before[beyond])])
    before, after = before - before[zero], after - after[zero]
    low, high = before <= WALL_EV, (before > WALL_EV) & (before <= HIGHEST_EV)
    low[zero] = False  # both are zero there by definition
    return WallScan(
        kind=scan.kind,
        name=scan.name,
        distances_A=scan.distances_A.round(4).tolist(),
        before_eV=before.round(5).tolist(),
        after_eV=after.round(5).tolist(),
        rms_below_eV=_rms((after - before)[low]),
        rms_above_eV=_rms((after - before)[high]),
        turns_before_A=_turns(scan.distances_A, before, int(beyond[0]), zero),
        turns_after_A=_turns(scan.distances_A, after, int(beyond[0]), zero),
    )


def _rms(values: np.ndarray) -> float | None:
    return float(np.sqrt(np.mean(values**2))) if len(values) else None


def _turns(distances: np.ndarray, energies: np.ndarray, first: int, zero: int) -> float | None:
    """Distance at which the energy stops rising on the way in from the model's own minimum, Å.

    Args:
        distances: ascending, Å.
        energies: eV.
        first: the minimum is looked for from this index on.
        zero: up to this.
    """
    bottom = first + int(np.argmin(energies[first : zero + 1]))
    for k in range(bottom, 0, -1):
        if energies[k - 1] < energies[k] - LEAST_FALL_EV:
            return float(distances[k].round(4))
    return None
