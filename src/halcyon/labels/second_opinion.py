"""A second, cheaper Hamiltonian, and what its forces say of the reference's.

    from pathlib import Path
    from halcyon.labels.second_opinion import ForceDifference, second_hamiltonian

    second = second_hamiltonian("gfn1")
    forces = [record.forces for record in second.label(labelled, Path("work"), cores=1)]
    difference = ForceDifference.learn(labelled, forces)
    difference.corrected(labelled[0], forces[0])  # eV/Å, as the reference would have them

Two Hamiltonians differ mostly by the lengths and strengths of their bonds. So the difference of an
atom's force is written as a sum over its neighbours of a function of distance along the bond, one
function for each pair of elements, and a multiple of the second Hamiltonian's own force; ridge
regression on labelled frames finds them, the atoms of each element by themselves. All terms are
vectors that turn with the frame. It is kept so simple because a few dozen labels must teach it, and
because no interval depends on its being right (`verdict.between_replicas`).

Not for: labels (`labelling`), or how sure they make the audit (`verdict.audit`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from halcyon.config import AseReference, Cp2kReference, DatasetReference, XtbReference
from halcyon.config.reference import ReferenceSettings
from halcyon.errors import InputError
from halcyon.labels.reference.base import LevelOfTheory
from halcyon.labels.reference.xtb import Xtb

METHODS = {"gfn1": "GFN1-xTB", "gfn2": "GFN2-xTB"}
CUTOFF_A = 3.5
"""Atoms further apart than this are no neighbours: bonds and hydrogen bonds are."""
CENTRES_A = np.linspace(0.8, 2.9, 8)
WIDTH_A = 0.3
"""The functions of distance are sums of Gaussians exp(-((r - centre)/width)²)."""
PENALTIES = np.logspace(-3, 3, 7)
"""Of the ridge regression; the one with the least error on values left out is taken."""


def second_hamiltonian(method: str) -> Xtb:
    """The Hamiltonian that `audit.second_opinion` names.

    Args:
        method: `gfn1` or `gfn2`.
    """
    return Xtb(XtbReference(backend="xtb", method=METHODS[method], accuracy=1.0))


def refuse_unfit(
    method: str, reference: ReferenceSettings, level: LevelOfTheory, structures: Sequence[Atoms]
) -> None:
    """Refuse a second opinion that is no second one, or that it cannot give.

    Args:
        method: `gfn1` or `gfn2`.
        reference: of the campaign.
        level: its level of theory.
        structures: start structures that are explored.

    Raises:
        InputError: the message names the setting, its value and what was expected.
    """
    setting = f"audit.second_opinion = {method}"
    if isinstance(reference, DatasetReference):
        raise InputError(
            f"{setting}: expected none with `reference: {{backend: dataset}}`: the audit of a "
            "campaign in retrospect is measured on published frames, and not on those that the "
            "second opinion would judge"
        )
    if _hamiltonian(reference, level) == METHODS[method]:
        other = "gfn2" if method == "gfn1" else "gfn1"
        raise InputError(
            f"{setting}: the reference is {METHODS[method]} itself: expected another Hamiltonian "
            f"({other}) or none"
        )
    try:
        second_hamiltonian(method).check(structures)
    except InputError as error:
        raise InputError(
            f"{setting}: {error}. Expected a system that {METHODS[method]} can compute, or none"
        ) from None


def _hamiltonian(reference: ReferenceSettings, level: LevelOfTheory) -> str:
    """The tight-binding Hamiltonian of a reference; empty: it is none, or cannot be recognised."""
    if isinstance(reference, XtbReference):
        return reference.method
    if isinstance(reference, AseReference) and reference.calculator.startswith("tblite."):
        return str(reference.arguments.get("method", "GFN2-xTB"))
    if isinstance(reference, Cp2kReference):
        (force_eval,) = level["input"]["+FORCE_EVAL"][:1]
        scheme = force_eval.get("+DFT", {}).get("+QS", {})
        if str(scheme.get("METHOD", "")).upper() == "XTB":
            return f"GFN{scheme.get('+XTB', {}).get('GFN_TYPE', 1)}-xTB"
    return ""


@dataclass(frozen=True)
class ForceDifference:
    """What the reference's forces are more than a second Hamiltonian's.

    Attributes:
        elements: atomic numbers of the neighbours that have functions.
        weights: of the terms of an atom's force, by its atomic number; shape (1 + 8 E,) with E
            elements. Atoms of other elements are not corrected.
    """

    elements: tuple[int, ...]
    weights: Mapping[int, np.ndarray]

    @classmethod
    def learn(
        cls, frames: Sequence[Atoms], forces: Sequence[np.ndarray | None]
    ) -> "ForceDifference":
        """Learn from labelled frames.

        Args:
            frames: with the reference's `forces`, eV/Å.
            forces: of the second Hamiltonian, shape (N, 3) each, eV/Å; None: it has none.
        """
        from sklearn.linear_model import RidgeCV

        known = [(f, force) for f, force in zip(frames, forces, strict=True) if force is not None]
        elements = tuple(sorted({int(z) for frame, _ in known for z in frame.numbers}))
        terms: dict[int, list[np.ndarray]] = {z: [] for z in elements}
        values: dict[int, list[np.ndarray]] = {z: [] for z in elements}
        for frame, second in known:
            of_frame, difference = _terms(frame, second, elements), frame.arrays["forces"] - second
            for z in elements:
                chosen = frame.numbers == z
                terms[z].append(of_frame[chosen].reshape(-1, of_frame.shape[-1]))
                values[z].append(difference[chosen].ravel())
        weights = {}
        for z in elements:
            rows, targets = np.concatenate(terms[z]), np.concatenate(values[z])
            scale = np.sqrt((rows**2).mean(axis=0))
            present = scale > 1e-6 * max(scale.max(), 1e-6)
            weights[z] = np.zeros(rows.shape[1])
            if present.any() and len(rows) > 1:
                ridge = RidgeCV(PENALTIES, fit_intercept=False)
                ridge.fit(rows[:, present] / scale[present], targets)
                weights[z][present] = ridge.coef_ / scale[present]
        return cls(elements, weights)

    def corrected(self, frame: Atoms, forces: np.ndarray) -> np.ndarray:
        """The reference's forces as this expects them, shape (N, 3), eV/Å.

        Args:
            frame: any frame.
            forces: of the second Hamiltonian, shape (N, 3), eV/Å.
        """
        terms = _terms(frame, forces, self.elements)
        corrected = np.array(forces, dtype=float)
        for z, weights in self.weights.items():
            chosen = frame.numbers == z
            corrected[chosen] += terms[chosen] @ weights
        return corrected


def _terms(frame: Atoms, forces: np.ndarray, elements: Sequence[int]) -> np.ndarray:
    """The terms of every atom's force, shape (N, 3, 1 + 8 E); see `ForceDifference`."""
    number, width = len(frame), len(CENTRES_A)
    terms = np.zeros((number, 3, 1 + width * len(elements)))
    terms[:, :, 0] = forces
    atom, neighbour, vector, distance = neighbor_list("ijDd", frame, CUTOFF_A)
    gaussians = np.exp(-(((distance[:, None] - CENTRES_A) / WIDTH_A) ** 2))
    # Along the bond, away from the neighbour.
    along = -(vector / distance[:, None])[:, :, None] * gaussians[:, None, :]
    for i, z in enumerate(elements):
        chosen = frame.numbers[neighbour] == z
        columns = slice(1 + i * width, 1 + (i + 1) * width)
        sums = np.zeros((number, 3, width))
        np.add.at(sums, atom[chosen], along[chosen])
        terms[:, :, columns] = sums
    return terms
