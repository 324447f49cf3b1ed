"""Momenta at the start of a replica, against equipartition worked out by hand.

Without motion of the centre of mass, atom i has the mean kinetic energy 3/2 k_B T (1 - m_i/M):
its velocity is v_i - V, whose variance is k_B T (1/m_i - 1/M) per component.
"""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.md.velocitydistribution import Stationary

from halcyon.exploration.momenta import kinetic_energies, start_momenta, temperatures

DRAWS = 3000
KELVIN = 500.0


def systems() -> dict[str, Atoms]:
    return {
        "water": molecule("H2O"),
        "acetic acid": molecule("CH3COOH"),
        "a heavy and a light atom": Atoms("IH", [[0, 0, 0], [0, 0, 1.6]]),
    }


def drawn(atoms: Atoms, number: int = DRAWS, dtype: torch.dtype = torch.float64) -> np.ndarray:
    masses = torch.tensor(atoms.get_masses(), dtype=dtype)
    return np.stack([start_momenta(masses, KELVIN, seed=seed).numpy() for seed in range(number)])


@pytest.mark.parametrize("name", systems())
def test_every_element_has_the_temperature_that_was_asked(name):
    atoms = systems()[name]
    masses = atoms.get_masses()
    # Twice the kinetic energy of each atom, per degree of freedom, in K.
    temperatures = (drawn(atoms) ** 2).sum(axis=2) / masses / 3 / units.kB
    share = 1 - masses / masses.sum()
    for element in set(atoms.get_chemical_symbols()):
        of_element = [symbol == element for symbol in atoms.get_chemical_symbols()]
        mean = temperatures[:, of_element].mean() / share[of_element].mean()
        # 3,000 draws of 3 or more components: a standard error under 1.5 %.
        assert mean == pytest.approx(KELVIN, rel=0.06), element


@pytest.mark.parametrize("name", systems())
def test_no_motion_of_the_centre_of_mass_and_the_exact_kinetic_energy(name):
    atoms = systems()[name]
    momenta = drawn(atoms, 5)
    np.testing.assert_allclose(momenta.sum(axis=1), 0, atol=1e-12)
    kinetic = (momenta**2).sum(axis=2) / 2 / atoms.get_masses()
    expected = (3 * len(atoms) - 3) / 2 * units.kB * KELVIN
    np.testing.assert_allclose(kinetic.sum(axis=1), expected, rtol=1e-6)


def test_a_single_atom_keeps_its_momentum():
    temperature = (drawn(Atoms("Ar")) ** 2).sum(axis=(1, 2)) / Atoms("Ar").get_masses() / 3
    assert temperature.mean() / units.kB == pytest.approx(KELVIN, rel=0.06)


def test_a_seed_gives_the_same_momenta_in_every_type():
    water = molecule("H2O")
    double, single = drawn(water, 2), drawn(water, 2, torch.float32)
    np.testing.assert_allclose(single, double, rtol=1e-5)
    assert not np.allclose(double[0], double[1])


def test_at_zero_kelvin_nothing_moves():
    assert not start_momenta(torch.ones(3), 0.0, seed=1).any()


@pytest.mark.parametrize("name", systems())
def test_the_temperature_is_that_about_the_centre_of_mass(name):
    atoms = systems()[name]
    atoms.set_momenta(np.random.default_rng(2).normal(size=(len(atoms), 3)))
    copy = atoms.copy()
    Stationary(copy, preserve_temperature=False)
    # ASE counts 3N degrees of freedom; 3 of them are at rest.
    expected = copy.get_temperature() * len(atoms) / (len(atoms) - 1)
    twice = [
        torch.tensor(np.concatenate([values] * 2))
        for values in (atoms.get_momenta(), atoms.get_masses())
    ]
    replica = torch.tensor([0] * len(atoms) + [1] * len(atoms))
    np.testing.assert_allclose(temperatures(*twice, replica, 2), [expected] * 2)
    kinetic = kinetic_energies(*twice, replica, 2)
    np.testing.assert_allclose(kinetic, [atoms.get_kinetic_energy()] * 2)


def test_a_single_atom_has_the_temperature_of_its_motion():
    momenta, mass = torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([3.0])
    found = temperatures(momenta, mass, torch.tensor([0]), 1)
    assert float(found) == pytest.approx(9 / 3 / 3 / units.kB, rel=1e-6)
