"""All configurations of a geometry's orthogonalised orbitals: exact states in a basis set.

    from halcyon.labels.reference.evc import full_ci

    full_ci.determinants(7, (5, 5))  # 441

Not for: active spaces; every electron and orbital takes part.
"""

from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from halcyon.errors import InputError
from halcyon.labels.reference.evc.integrals import Integrals

ENERGY_TOLERANCE_Ha = 1e-11
SPIN_TOLERANCE = 1e-3
"""Of ⟨S²⟩, from that of the multiplicity."""
SPIN_PENALTY_Ha = 0.5
"""Added for each unit that ⟨S²⟩ is off, while states are searched for."""
STEPS = 400


class UnconvergedStateError(InputError):
    """The exact state of a geometry did not converge, or has another spin."""


@dataclass(frozen=True)
class State:
    """A state of a geometry."""

    energy: float
    """Ha."""
    coefficients: np.ndarray
    """(α strings, β strings), in terms of orthogonalised orbitals."""


def determinants(n_orbitals: int, electrons: tuple[int, int]) -> int:
    """Number of determinants with so many α and β electrons."""
    return comb(n_orbitals, electrons[0]) * comb(n_orbitals, electrons[1])


def refuse_too_many(molecule: Any, most: int) -> None:
    """Refuse what would not fit.

    Raises:
        InputError: there are more than `most` determinants.
    """
    n, electrons = int(molecule.nao), molecule.nelec
    needed = determinants(n, electrons)
    if needed > most:
        raise InputError(
            f"reference.basis = {molecule.basis}: {n} orbitals with {electrons[0]} α and "
            f"{electrons[1]} β electrons make {needed:,} determinants "
            f"({needed * 8e-9:.3g} GB for each state), and reference.max_determinants is {most:,}. "
            "Take a smaller basis set or molecule, or raise that limit if memory and patience "
            "allow"
        )


def solve(molecule: Any, integrals: Integrals, *, n_states: int = 1) -> list[State]:
    """The lowest states of the molecule's multiplicity.

    Solved in canonical orbitals, where the iterations converge best, then expressed in
    orthogonalised atomic orbitals, where coefficients can be carried to other geometries.

    Raises:
        UnconvergedStateError: the iterations did not converge, or the spin is another one.
    """
    from pyscf import ao2mo, fci, scf

    field = scf.RHF(molecule)
    field.kernel()  # any orbitals will do; these are good ones even where they are unconverged
    n, electrons = len(integrals.one_body), molecule.nelec
    # Canonical orbitals in terms of orthogonalised ones.
    turned = np.linalg.solve(integrals.orbitals, field.mo_coeff)
    core = turned.T @ integrals.one_body @ turned
    repulsion = ao2mo.incore.full(integrals.two_body, turned)
    spin = molecule.spin / 2
    solver = fci.addons.fix_spin_(
        fci.direct_spin1.FCI(molecule), shift=SPIN_PENALTY_Ha, ss=spin * (spin + 1)
    )
    solver.conv_tol, solver.max_cycle, solver.nroots = ENERGY_TOLERANCE_Ha, STEPS, n_states
    energies, vectors = solver.kernel(core, repulsion, n, electrons)
    converged = np.atleast_1d(solver.converged)
    if n_states == 1:
        energies, vectors = [energies], [vectors]
    states = []
    for index, (energy, vector) in enumerate(zip(energies, vectors, strict=True)):
        square = float(np.vdot(vector, fci.spin_op.contract_ss(vector, n, electrons)))
        if not converged[index] or abs(square - spin * (spin + 1)) > SPIN_TOLERANCE:
            raise UnconvergedStateError(
                f"state {index}: full configuration interaction "
                + ("" if converged[index] else f"did not converge in {STEPS} steps; ")
                + f"⟨S²⟩ = {square:.4f}, expected {spin * (spin + 1):.2f} of multiplicity "
                f"{molecule.spin + 1}"
            )
        coefficients = fci.addons.transform_ci(vector, electrons, turned.T)
        states.append(State(float(energy) + integrals.nuclear, np.asarray(coefficients)))
    return states


def transition_densities(
    bra: np.ndarray, ket: np.ndarray, n_orbitals: int, electrons: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Of one and two electrons between two states, summed over spins.

    Only the parts that integrals of real orbitals see are kept: (n, n), symmetric, and (n, n, n,
    n) with the eight-fold symmetry of integrals.
    """
    from pyscf import fci

    single, double = fci.direct_spin1.trans_rdm12(bra, ket, n_orbitals, electrons)
    single = (single + single.T) / 2
    for axes in ((1, 0, 2, 3), (0, 1, 3, 2), (2, 3, 0, 1)):
        double = (double + double.transpose(axes)) / 2
    return single, double
