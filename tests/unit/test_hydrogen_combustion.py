"""The shipped force field of hydrogen combustion against spectroscopy."""

from itertools import product

import numpy as np
import pytest
from ase.data import atomic_masses
from scipy import constants

from conftest import ROOT
from halcyon.config import StructureSettings, XmlForceField
from halcyon.systems.structures import bonds, start_structure
from halcyon.teacher.forcefield import make_teacher
from halcyon.teacher.sampling import DISSOCIATION

FILE = ROOT / "config/forcefields/hydrogen-combustion.xml"
OBSERVED = {
    # Harmonic frequencies of the diatomic molecules and of water, fundamentals of the others, cm⁻¹.
    "[H][H]": [4401],
    "O=O": [1580],
    "[OH]": [3738],
    "O": [1649, 3832, 3943],
    "O[O]": [1098, 1392, 3436],
    "OO": [371, 871, 1266, 1396, 3599, 3608],
}
MULTIPLICITY = {"O=O": 3, "[OH]": 2, "O[O]": 2}


@pytest.fixture(params=OBSERVED)
def species(request):
    smiles = request.param
    settings = StructureSettings(name="it", smiles=smiles, multiplicity=MULTIPLICITY.get(smiles, 1))
    atoms = start_structure(settings)
    graph = bonds(settings, atoms)
    forcefield = XmlForceField(kind="forcefield_xml", files=[FILE])
    return smiles, make_teacher(forcefield, atoms, graph), relaxed(forcefield, atoms, graph)


def relaxed(forcefield, atoms, graph):
    """The minimum of the force field, by its own forces."""
    from ase.calculators.calculator import Calculator, all_changes
    from ase.optimize import BFGS

    teacher = make_teacher(forcefield, atoms, graph)

    class Engine(Calculator):
        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=(), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            energies, forces = teacher.evaluate([atoms])
            self.results = {"energy": energies[0], "forces": forces[0]}

    atoms = atoms.copy()
    atoms.calc = Engine()
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=500)
    atoms.calc = None
    return atoms


def frequencies(teacher, atoms):
    """Of the vibrations, cm⁻¹, by central differences of the forces."""
    step, moved = 1e-3, []
    for atom, axis, sign in product(range(len(atoms)), range(3), (1, -1)):
        moved.append(atoms.copy())
        moved[-1].positions[atom, axis] += sign * step
    forces = teacher.evaluate(moved)[1].reshape(-1, 2, 3 * len(atoms))
    hessian = -(forces[:, 0] - forces[:, 1]) / (2 * step)
    mass = np.repeat(atomic_masses[atoms.numbers], 3)
    squares = np.linalg.eigvalsh((hessian + hessian.T) / 2 / np.sqrt(np.outer(mass, mass)))
    si = constants.e / constants.angstrom**2 / constants.atomic_mass
    waves = np.sqrt(np.abs(squares) * si) / (2 * np.pi * constants.c * 100)
    number = 1 if len(atoms) == 2 else 3 * len(atoms) - 6
    return np.sort(waves[np.argsort(squares)][-number:])


def test_vibrations_are_the_observed_ones(species):
    smiles, teacher, atoms = species
    np.testing.assert_allclose(frequencies(teacher, atoms), OBSERVED[smiles], rtol=0.12)


def test_bonds_end_on_a_plateau(species):
    _, teacher, atoms = species
    far = atoms.copy()
    i, j = teacher.bonds[-1]  # to an atom that nothing else hangs on
    far.set_distance(i, j, DISSOCIATION[1] * atoms.get_distance(i, j), fix=0)
    (low, high), _ = teacher.evaluate([atoms, far])
    assert 1.5 < high - low < 6.5  # eV: a bond's worth
