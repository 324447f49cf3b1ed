"""Static scans of a model: does it foretell, without dynamics, that replicas will fail?

From a few frames every kind of bond is stretched and compressed, every kind of angle bent, and
atoms that are not bonded are pushed together. The model's energy along each scan is held against
that of a second Hamiltonian, both counted from the frame itself.

    scans = scans_of(frames, bonds, classes)
    judged(scans, opinion_of(scans), model)["bond"]["deficit_eV"]

Not for: what fine-tuning forgot of a start model (see `halcyon.models.forgetting`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.transform import Rotation

from halcyon.models import mace
from halcyon.models.forgetting import STRETCH, beyond

BEND_DEG = np.linspace(-60.0, 60.0, 13)
"""Changes of an angle, degrees."""
PUSH = np.linspace(0.35, 1.0, 14)
"""Distances of a contact, in that of the frame."""
FAR = 3
"""Atoms in contact are at least so many bonds apart."""
HIGHEST_EV = 5.0
"""Points where the second Hamiltonian is above are not judged, eV."""
HOLE_EV = 0.5
"""A model has a hole where it is lower than the second Hamiltonian by more, eV, and by half."""


@dataclass(frozen=True)
class Scan:
    """Frames along one coordinate.

    Attributes:
        kind: `bond`, `angle` or `contact`.
        frames: in the order of the coordinate.
        origin: index of the frame that is not changed.
    """

    kind: str
    frames: list[Atoms]
    origin: int


def scans_of(
    frames: Sequence[Atoms], bonds: Sequence[tuple[int, int]], classes: Sequence[str]
) -> list[Scan]:
    """All scans of some frames, one for each kind of bond, angle and contact.

    Args:
        frames: molecules, atoms in the order of `classes`.
        bonds: pairs of atoms.
        classes: of the atoms: equivalent ones share one.
    """
    made = []
    for frame in frames:
        for i, j in _kinds(bonds, classes):
            moved = beyond(len(frame), (i, j), bonds)
            vector = frame.positions[j] - frame.positions[i]
            changed = [_moved(frame, moved, (factor - 1) * vector) for factor in STRETCH]
            made.append(Scan("bond", changed, int(np.argmin(abs(STRETCH - 1)))))
        for i, centre, j in _kinds(_angles(bonds), classes):
            moved = beyond(len(frame), (centre, j), bonds)
            axis = np.cross(*(frame.positions[[i, j]] - frame.positions[centre]))
            axis /= np.linalg.norm(axis)
            bent = [_turned(frame, moved, centre, np.deg2rad(by) * axis) for by in BEND_DEG]
            made.append(Scan("angle", bent, int(np.argmin(abs(BEND_DEG)))))
        for i, j in _kinds(_apart(len(frame), bonds), classes):
            vector = frame.positions[j] - frame.positions[i]
            pushed = [_moved(frame, np.array([j]), (factor - 1) * vector) for factor in PUSH]
            made.append(Scan("contact", pushed, len(PUSH) - 1))
    return made


def _kinds(groups: Sequence[tuple[int, ...]], classes: Sequence[str]) -> list[tuple[int, ...]]:
    """The first group of each kind; one that is read backwards is of the same kind."""
    first: dict[tuple[str, ...], tuple[int, ...]] = {}
    for group in groups:
        names = tuple(classes[atom] for atom in group)
        first.setdefault(min(names, names[::-1]), group)
    return list(first.values())


def _angles(bonds: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    neighbours: dict[int, list[int]] = {}
    for i, j in bonds:
        neighbours.setdefault(i, []).append(j)
        neighbours.setdefault(j, []).append(i)
    return [
        (i, centre, j)
        for centre, around in sorted(neighbours.items())
        for i, j in itertools.combinations(sorted(around), 2)
    ]


def _apart(number: int, bonds: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    i, j = np.array(bonds, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(number, number))
    steps = shortest_path(graph.tocsr(), directed=False, unweighted=True)
    return [tuple(pair) for pair in np.argwhere(np.triu(steps >= FAR)).tolist()]


def _moved(frame: Atoms, atoms: np.ndarray, by: np.ndarray) -> Atoms:
    changed = Atoms(frame.numbers, frame.positions)
    changed.positions[atoms] += by
    return changed


def _turned(frame: Atoms, atoms: np.ndarray, centre: int, rotation: np.ndarray) -> Atoms:
    changed = Atoms(frame.numbers, frame.positions)
    origin = changed.positions[centre].copy()
    turned = Rotation.from_rotvec(rotation).apply(changed.positions[atoms] - origin)
    changed.positions[atoms] = turned + origin
    return changed


def opinion_of(scans: Sequence[Scan], method: str = "GFN1-xTB") -> list[np.ndarray]:
    """Energies of a second Hamiltonian along scans, eV; NaN where it does not converge."""
    from tblite.ase import TBLite

    energies = []
    for scan in scans:
        values = []
        for frame in scan.frames:
            atoms = frame.copy()
            atoms.calc = TBLite(method=method, verbosity=0)
            try:
                values.append(float(atoms.get_potential_energy()))
            except CalculationFailed:
                values.append(np.nan)
        energies.append(np.array(values))
    return energies


def judged(
    scans: Sequence[Scan], opinion: Sequence[np.ndarray], model: torch.nn.Module
) -> dict[str, dict[str, float | None]]:
    """What a model's energies along scans say, by kind of scan.

    Args:
        scans: as of `scans_of`.
        opinion: energies of the second Hamiltonian, eV, as of `opinion_of`.
        model: as `mace.load` returns it.
    """
    frames = [frame for scan in scans for frame in scan.frames]
    predicted = np.array(mace.evaluate(model, frames).energy, dtype=float)
    parts = np.split(predicted, np.cumsum([len(scan.frames) for scan in scans])[:-1])
    rows: dict[str, list[dict[str, float | None]]] = {}
    for scan, energies, other in zip(scans, parts, opinion, strict=True):
        rows.setdefault(scan.kind, []).append(compared(energies, other, scan.origin))
    return {kind: _together(of_kind) for kind, of_kind in rows.items()}


def compared(model: np.ndarray, other: np.ndarray, origin: int) -> dict[str, float | None]:
    """How a model differs from the second Hamiltonian along one scan.

    Args:
        model: energies of the model, eV.
        other: those of the second Hamiltonian, eV, NaN where it has none.
        origin: index of the point that both are counted from.

    Returns:
        `rms_eV` of the difference; `deficit_eV`, by how much the model is too low at the most; and
        `barrier_eV`, what a way into a hole costs at the least by the model; None: there is no
        hole.
    """
    model, other = model - model[origin], other - other[origin]
    known = np.isfinite(other) & (other <= HIGHEST_EV)
    difference = np.where(np.isfinite(model), model, -np.inf) - other
    low = known & (difference < -np.maximum(HOLE_EV, other / 2))
    barriers = []
    for way in (range(origin, len(model)), range(origin, -1, -1)):
        climbed = 0.0
        for point in way:
            if low[point]:
                barriers.append(climbed)
                break
            climbed = max(climbed, float(model[point])) if known[point] else climbed
    clipped = np.clip(difference[known], -100.0, 100.0)
    return {
        "rms_eV": float(np.sqrt(np.mean(clipped**2))),
        "deficit_eV": float(max(0.0, (-clipped).max())),
        "barrier_eV": min(barriers) if barriers else None,
    }


def _together(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Of all scans of a kind: mean difference, worst deficit, share with a hole, least barrier."""
    barriers = [row["barrier_eV"] for row in rows if row["barrier_eV"] is not None]
    return {
        "scans": len(rows),
        "rms_eV": float(np.mean([row["rms_eV"] for row in rows])),
        "deficit_eV": float(np.max([row["deficit_eV"] for row in rows])),
        "holes": len(barriers) / len(rows),
        "barrier_eV": min(barriers, default=None),
    }
