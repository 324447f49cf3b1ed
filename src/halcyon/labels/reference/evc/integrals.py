"""Integrals over symmetrically orthogonalised atomic orbitals, and their gradients.

The orbitals are φ_p = Σ_μ χ_μ (S^-1/2)_μp of P.-O. Löwdin (J. Chem. Phys. 18, 365, 1950): of all
orthonormal sets the nearest to the atomic orbitals, so that they follow the atoms.

    from ase.build import molecule
    from halcyon.labels.reference.evc.integrals import Integrals, molecule_of

    integrals = Integrals(molecule_of(molecule("H2O"), "sto-3g"))
    integrals.one_body.shape  # (7, 7)

Units are PySCF's: Hartree and Bohr. Not for: periodic systems, or effective core potentials.
"""

from typing import Any

import numpy as np
from ase import Atoms

from halcyon.errors import InputError

SINGULAR = 1e-7
"""Smallest eigenvalue of the overlap that orbitals are orthogonalised with."""


class SingularOverlapError(InputError):
    """Atomic orbitals of a geometry are linearly dependent: atoms are on top of each other."""


def molecule_of(atoms: Atoms, basis: str) -> Any:
    """PySCF's molecule of a frame, with `info` keys charge and multiplicity.

    Raises:
        InputError: PySCF does not know the basis, or not for an element.
    """
    from pyscf import gto
    from pyscf.lib.exceptions import BasisNotFoundError

    try:
        return gto.M(
            atom=list(zip(atoms.symbols, atoms.positions.tolist(), strict=True)),
            basis=basis,
            charge=int(atoms.info.get("charge", 0)),
            spin=int(atoms.info.get("multiplicity", 1)) - 1,
            unit="Angstrom",
            verbose=0,
        )
    except (BasisNotFoundError, KeyError) as error:
        raise InputError(
            f"reference.basis = {basis}: PySCF has it not for all of "
            f"{', '.join(sorted(set(atoms.symbols)))} ({error}); expected a basis set's name, such "
            "as sto-3g, 6-31g or cc-pvdz"
        ) from error


class Integrals:
    """Of one geometry, over its orthogonalised orbitals."""

    def __init__(self, molecule: Any) -> None:
        """Compute.

        Args:
            molecule: PySCF's.

        Raises:
            SingularOverlapError: atomic orbitals are linearly dependent.
        """
        from pyscf import ao2mo, scf

        self._molecule = molecule
        self._overlap_values, self._overlap_vectors = np.linalg.eigh(molecule.intor("int1e_ovlp"))
        if self._overlap_values[0] < SINGULAR:
            raise SingularOverlapError(
                f"the overlap of the atomic orbitals is singular (smallest eigenvalue "
                f"{self._overlap_values[0]:.1g}, expected over {SINGULAR:g}): atoms are on top of "
                "each other, or the basis set is too diffuse"
            )
        self.orbitals = (
            self._overlap_vectors / np.sqrt(self._overlap_values) @ self._overlap_vectors.T
        )
        self._core = scf.hf.get_hcore(molecule)
        self.one_body = self.orbitals.T @ self._core @ self.orbitals
        self._repulsion = molecule.intor("int2e")
        # Packed: pq ≥ rs, p ≥ q, r ≥ s.
        self.two_body = ao2mo.restore(
            8, ao2mo.incore.full(self._repulsion, self.orbitals), len(self._core)
        )
        self.nuclear = float(molecule.energy_nuc())

    def gradient(self, single: np.ndarray, double: np.ndarray) -> np.ndarray:
        """Gradient of Σ γ h + ½ Σ Γ (pq|rs) + nuclear repulsion by positions, (N, 3), Ha/Bohr.

        Args:
            single: γ over orthogonalised orbitals, symmetric, (n, n).
            double: Γ, with the symmetry of the integrals, (n, n, n, n).

        The state's coefficients stay what they are, and so do γ and Γ.
        """
        from pyscf import scf

        molecule, x = self._molecule, self.orbitals
        one_ao = x @ single @ x.T
        half = np.einsum("pqrs,mp,lr,ks->mqlk", double, x, x, x, optimize=True)
        two_ao = np.einsum("mqlk,nq->mnlk", half, x, optimize=True)
        # By the orbitals' coefficients: dE/dX_mp.
        by_orbitals = 2 * self._core @ x @ single
        by_orbitals += 2 * np.einsum("mnlk,nqlk->mq", self._repulsion, half, optimize=True)
        # d(S^-1/2) in the eigenvectors of S: that of dS, times −1/(√a √b (√a + √b)).
        roots = np.sqrt(self._overlap_values)
        factor = -1 / (roots[:, None] * roots * (roots[:, None] + roots))
        vectors = self._overlap_vectors
        inner = vectors.T @ (by_orbitals + by_orbitals.T) @ vectors / 2
        by_overlap = vectors @ (factor * inner) @ vectors.T
        slopes = scf.RHF(molecule).nuc_grad_method()
        core_slope = slopes.hcore_generator(molecule)
        overlap_slope = -molecule.intor("int1e_ipovlp")  # (3, n, n): of the first orbital
        repulsion_slope = -molecule.intor("int2e_ip1")
        by_two = np.einsum("xmnlk,mnlk->xm", repulsion_slope, two_ao, optimize=True)
        result = slopes.grad_nuc()
        for atom, (_, _, first, end) in enumerate(molecule.aoslice_by_atom()):
            part = slice(first, end)
            result[atom] += np.einsum("xmn,mn->x", core_slope(atom), one_ao)
            result[atom] += 2 * np.einsum("xmn,mn->x", overlap_slope[:, part], by_overlap[part])
            result[atom] += 2 * by_two[:, part].sum(1)  # each of four places, times one half
        return np.asarray(result)
