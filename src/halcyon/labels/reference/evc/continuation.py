"""Energies and forces of a molecule, interpolated between exact states of few geometries.

A correlated state of a training geometry is a list of coefficients in terms of determinants of
symmetrically orthogonalised atomic orbitals. Carried to another geometry, the same coefficients
are a state there, and the best linear combination of those of all training geometries is the
interpolated state (Y. Rath and G. H. Booth, "Interpolating numerically exact many-body wave
functions for accelerated molecular dynamics", Nat. Commun. 16, 2005, 2025; D. Frame et al., Phys.
Rev. Lett. 121, 032501, 2018). Overlaps and transition densities between training states do not
depend on the geometry: only integrals are new, and a small generalised eigenproblem.

    H_ij = Σ γ^ij_pq h_pq + ½ Σ Γ^ij_pqrs (pq|rs) + E_nuc S_ij,        H c = E S c

Energies are variational: above the exact one of the basis set, and equal at training geometries.

    from ase.build import molecule
    from halcyon.labels.reference.evc.continuation import Continuation

    first = molecule("H2O")
    continuation = Continuation.begin(first, "sto-3g")
    continuation = continuation.with_states(first, continuation.exact(first))
    result = continuation.results(first)[0]  # its energy, eV, and forces, eV/Å

Not for: choosing training geometries (see `growth`), or non-adiabatic couplings.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree
from scipy.linalg import eigh

from halcyon.errors import InputError
from halcyon.labels.reference.evc import full_ci
from halcyon.labels.reference.evc.body_frame import BodyFrame, Placed
from halcyon.labels.reference.evc.full_ci import State
from halcyon.labels.reference.evc.integrals import Integrals, molecule_of

DEPENDENT = 1e-9
"""Combinations of training states whose norm is smaller than this, of the largest, are left out."""


@dataclass(frozen=True)
class Result:
    """A state of a geometry."""

    energy: float
    """eV."""
    forces: np.ndarray
    """(N, 3), eV/Å."""
    weights: np.ndarray
    """(T,): of training states; their squares do not sum to 1, since these overlap."""


@dataclass(frozen=True)
class Continuation:
    """Training states of one molecule in one basis set, and what is interpolated from them."""

    molecule: Atoms
    """The first geometry, in the order of atoms, with charge and multiplicity; it gives the
    orientation."""
    basis: str
    geometries: np.ndarray
    """(T, N, 3), Å, in the body's frame: one for each state."""
    energies: np.ndarray
    """(T,), Ha: exact."""
    overlap: np.ndarray
    """(T, T)."""
    singles: np.ndarray
    """(pairs, n, n), of single electrons; pairs of states i ≥ j are in the order of numpy's
    `tril_indices`."""
    doubles: np.ndarray
    """(pairs, packed), of pairs of electrons: as PySCF packs integrals of eight-fold symmetry."""
    vectors: tuple[np.ndarray, ...] = ()
    """Coefficients of the states, while more may be added."""

    @classmethod
    def begin(cls, molecule: Atoms, basis: str) -> "Continuation":
        """No state yet.

        Raises:
            InputError: the basis is not known, or an orientation cannot be defined.
        """
        n = int(molecule_of(molecule, basis).nao)
        packed = n * (n + 1) // 2
        empty = cls(
            molecule=molecule.copy(),
            basis=basis,
            geometries=np.zeros((0, len(molecule), 3)),
            energies=np.zeros(0),
            overlap=np.zeros((0, 0)),
            singles=np.zeros((0, n, n)),
            doubles=np.zeros((0, packed * (packed + 1) // 2)),
        )
        empty.molecule.info = dict(molecule.info)
        if empty.directed and not empty.frame.defined(molecule.positions):
            raise InputError(
                f"reference.basis = {basis}: the first geometry's atoms are on a line, so that its "
                "orientation about it is not defined, which orbitals with a direction need. "
                "Expected a bent one, an atom or two, or a basis set of s functions"
            )
        return empty

    @property
    def frame(self) -> BodyFrame:
        """The orientation that geometries are brought to."""
        return BodyFrame(self.molecule.positions, weights=self.molecule.numbers.astype(float))

    @property
    def directed(self) -> bool:
        """Whether a basis function has a direction."""
        molecule = molecule_of(self.molecule, self.basis)
        return any(molecule.bas_angular(shell) > 0 for shell in range(molecule.nbas))

    def fault(self, atoms: Atoms) -> str:
        """Why a frame is not one of this molecule; empty if it is."""
        known, info = self.molecule, atoms.info
        if [*atoms.numbers] != [*known.numbers]:
            return (
                f"atoms {atoms.symbols}, and the training states are of {known.symbols}, in this "
                "order"
            )
        for key, default in (("charge", 0), ("multiplicity", 1)):
            if info.get(key, default) != known.info.get(key, default):
                return (
                    f"{key} = {info.get(key, default)}, and the training states have "
                    f"{known.info.get(key, default)}"
                )
        if self.directed and not self.frame.defined(atoms.positions):
            return "its atoms are nearly on a line: the orientation about it is not defined"
        return ""

    def exact(self, atoms: Atoms, n_states: int = 1) -> list[State]:
        """The lowest exact states of a geometry.

        Raises:
            InputError: they did not converge, or atoms are on top of each other.
        """
        molecule, integrals = self._integrals(self._placed(atoms))
        return full_ci.solve(molecule, integrals, n_states=n_states)

    def with_states(self, atoms: Atoms, states: list[State]) -> "Continuation":
        """The same with more training states, all of the geometry `atoms`.

        Raises:
            InputError: the coefficients of earlier states are not there any more, or a state
                depends linearly on them.
        """
        grown = self
        for state in states:
            grown = grown._with_state(atoms, state)
        return grown

    def results(self, atoms: Atoms, n_states: int = 1) -> list[Result]:
        """The lowest interpolated states of a geometry, with their forces.

        Raises:
            InputError: atoms are on top of each other, or there are fewer states.
        """
        placed = self._placed(atoms)
        _, integrals = self._integrals(placed)
        values, weights = self._solved(integrals)
        if n_states > len(values):
            raise InputError(f"{n_states} states, and {len(values)} were trained")
        return [
            self._result(placed, integrals, float(values[root]), weights[:, root])
            for root in range(n_states)
        ]

    def energy(self, atoms: Atoms) -> float:
        """The lowest interpolated energy of a geometry, eV, without its forces."""
        _, integrals = self._integrals(self._placed(atoms))
        return float(self._solved(integrals)[0][0]) * Hartree

    def forces_of(self, atoms: Atoms, state: State) -> np.ndarray:
        """Exact forces of an exact state of a geometry, (N, 3), eV/Å."""
        placed = self._placed(atoms)
        molecule, integrals = self._integrals(placed)
        densities = full_ci.transition_densities(
            state.coefficients, state.coefficients, int(molecule.nao), molecule.nelec
        )
        return self._forces(placed, integrals.gradient(*densities))

    def _with_state(self, atoms: Atoms, state: State) -> "Continuation":
        from pyscf import ao2mo

        if len(self.vectors) != len(self.energies):
            raise InputError("training states whose coefficients were not kept cannot grow")
        placed = self._placed(atoms)
        molecule = molecule_of(self._atoms(placed), self.basis)
        n, electrons = int(molecule.nao), molecule.nelec
        vectors = (*self.vectors, state.coefficients)
        row = np.array([float(np.vdot(vector, vectors[-1])) for vector in vectors])
        overlap = np.block([[self.overlap, row[:-1, None]], [row[None, :-1], row[None, None, -1]]])
        least = float(np.linalg.eigvalsh(overlap)[0])
        if least < DEPENDENT:
            raise InputError(
                f"training state {len(vectors)} depends linearly on the others (smallest "
                f"eigenvalue of the overlap {least:.1g}, expected over {DEPENDENT:g}): its "
                "geometry is nearly one of theirs"
            )
        densities = [
            full_ci.transition_densities(vector, vectors[-1], n, electrons) for vector in vectors
        ]
        return replace(
            self,
            geometries=np.concatenate([self.geometries, placed.positions[None]]),
            energies=np.append(self.energies, state.energy),
            overlap=overlap,
            singles=np.concatenate([self.singles, [single for single, _ in densities]]),
            doubles=np.concatenate(
                [self.doubles, [ao2mo.restore(8, double, n) for _, double in densities]]
            ),
            vectors=vectors,
        )

    def _solved(self, integrals: Integrals) -> tuple[np.ndarray, np.ndarray]:
        """Energies (T',), Ha, and weights (T, T') of the combinations."""
        if not len(self.energies):
            raise InputError("no training state yet")
        n_states, n = len(self.energies), len(integrals.one_body)
        pairs = np.tensordot(self.singles, integrals.one_body) + self.doubles @ (
            _times_each_occurs(n) * integrals.two_body / 2
        )
        hamiltonian = np.zeros((n_states, n_states))
        hamiltonian[np.tril_indices(n_states)] = pairs
        hamiltonian = hamiltonian + np.tril(hamiltonian, -1).T
        norms, combinations = np.linalg.eigh(self.overlap)
        kept = norms > DEPENDENT * norms[-1]
        basis = combinations[:, kept] / np.sqrt(norms[kept])
        values, weights = eigh(basis.T @ hamiltonian @ basis)
        return values + integrals.nuclear, basis @ weights

    def _result(
        self, placed: Placed, integrals: Integrals, energy: float, weights: np.ndarray
    ) -> Result:
        from pyscf import ao2mo

        n = len(integrals.one_body)
        products = np.outer(weights, weights)
        products = 2 * products - np.diag(np.diag(products))
        of_pairs = products[np.tril_indices(len(weights))]
        single = np.tensordot(of_pairs, self.singles, 1)
        double = ao2mo.restore(1, of_pairs @ self.doubles, n)
        gradient = integrals.gradient(single, double)
        return Result(energy * Hartree, self._forces(placed, gradient), weights)

    def _forces(self, placed: Placed, gradient: np.ndarray) -> np.ndarray:
        """Forces (N, 3), eV/Å, in the laboratory, from a gradient in Ha/Bohr."""
        if self.directed:
            gradient = self.frame.turned_back(placed, gradient)
        return -gradient * Hartree / Bohr

    def _placed(self, atoms: Atoms) -> Placed:
        if self.directed:
            return self.frame.placed(atoms.positions)
        return Placed(atoms.positions, np.eye(3))

    def _atoms(self, placed: Placed) -> Atoms:
        atoms = Atoms(self.molecule.numbers, placed.positions)
        atoms.info = dict(self.molecule.info)
        return atoms

    def _integrals(self, placed: Placed) -> tuple[Any, Integrals]:
        molecule = molecule_of(self._atoms(placed), self.basis)
        return molecule, Integrals(molecule)


def _times_each_occurs(n: int) -> np.ndarray:
    """How often each packed integral stands among all n⁴."""
    first, second = np.tril_indices(n)
    of_pair = np.where(first == second, 1.0, 2.0)
    rows, columns = np.tril_indices(len(of_pair))
    return of_pair[rows] * of_pair[columns] * np.where(rows == columns, 1.0, 2.0)
