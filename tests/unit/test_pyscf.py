"""PySCF as a label backend: numbers against independent ones, and every way to fail."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.units import Bohr, Hartree
from pyscf import fci, gto, lib, scf
from scipy.linalg import block_diag

from conftest import ROOT
from halcyon.config import PyscfReference, read_yaml
from halcyon.errors import InputError
from halcyon.labels.reference import Status
from halcyon.labels.reference.pyscf.backend import Pyscf

SMALL = {
    "functional": "hf",
    "basis": "sto-3g",
    "dispersion": "none",
    "density_fitting": False,
    "grid_level": 1,
}


@pytest.fixture
def pyscf_with(tmp_path):
    def make(settings=None, **level):
        path = tmp_path / "level.yaml"
        lines = (f"{key}: {str(value).lower()}" for key, value in (SMALL | level).items())
        path.write_text("\n".join(lines) + "\n")
        return Pyscf(PyscfReference(backend="pyscf", level=path, **(settings or {})))

    return make


def with_state(atoms, charge=0, multiplicity=1):
    atoms.info = {"charge": charge, "multiplicity": multiplicity, "structure": "s"}
    return atoms


def label(reference, atoms, work):
    return next(reference.label([atoms], work, 1))


def test_energy_of_water_as_published(pyscf_with, tmp_path):
    # Programming project 3 of the Crawford group (computed by other programs): RHF/STO-3G of water
    # at this geometry, in bohr, is -74.942079928192 hartree.
    water = Atoms(
        "OHH",
        positions=np.array(
            [
                [0.0, -0.143225816552, 0.0],
                [1.638036840407, 1.136548822547, 0.0],
                [-1.638036840407, 1.136548822547, 0.0],
            ]
        )
        * Bohr,
    )
    record = label(pyscf_with(), with_state(water), tmp_path)
    assert record.energy / Hartree == pytest.approx(-74.942079928, abs=2e-7)


@pytest.mark.parametrize(
    ("name", "multiplicity", "level"),
    [
        ("H2O", 1, {"functional": "pbe", "dispersion": "d3bj"}),
        ("OH", 2, {"functional": "pbe", "dispersion": "d3bj"}),
        ("OH", 2, {"functional": "hf"}),  # has no grid to respond
    ],
)
def test_forces_are_minus_the_slope_of_the_energy(pyscf_with, tmp_path, name, multiplicity, level):
    reference = pyscf_with(density_fitting=True, **level)
    atoms = with_state(molecule(name), multiplicity=multiplicity)
    atoms.rattle(0.05, seed=1)
    forces, step = label(reference, atoms, tmp_path).forces, 2e-3
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 2] += sign * step
        energies.append(label(reference, moved, tmp_path).energy)
    slope = (energies[0] - energies[1]) / (2 * step)
    assert forces[1, 2] == pytest.approx(-slope, abs=2e-3)
    assert np.abs(forces.sum(axis=0)).max() < 1e-4


def test_a_label_repeats_whatever_was_before(pyscf_with, tmp_path):
    reference, atoms = pyscf_with(), with_state(molecule("H2O"))
    other = with_state(molecule("NH3"))
    first, _, second = reference.label([atoms, other, atoms], tmp_path, 1)
    assert first.energy == pytest.approx(second.energy, abs=1e-9)
    assert np.allclose(first.forces, second.forces, atol=1e-7)


def test_scratch_goes_where_it_went_before_once_a_frame_is_labelled(pyscf_with, tmp_path):
    before = lib.param.TMPDIR
    assert (
        label(pyscf_with(), with_state(molecule("H2")), tmp_path / "gone").status is Status.CRASHED
    )
    assert label(pyscf_with(), with_state(molecule("H2")), tmp_path).status is Status.OK
    assert before == lib.param.TMPDIR


# Bonds so long that each electron wants a side of its own. SCF from superposed atoms, in which both
# spins are alike, converges to a solution where none has.
@pytest.mark.parametrize(
    ("atoms", "multiplicity", "spins"),
    [
        (Atoms("OH", [[0, 0, 0], [0, 0, 2.0]]), 2, [(5, 3), (0, 1)]),
        (Atoms("H4", [[0, 0, 2.0 * i] for i in range(4)]), 3, [(1, 0), (0, 1), (1, 0), (1, 0)]),
    ],
    ids=["OH", "H4"],
)
def test_label_is_the_stable_solution(pyscf_with, tmp_path, atoms, multiplicity, spins):
    record = label(pyscf_with(), with_state(atoms, multiplicity=multiplicity), tmp_path)
    lines = list(zip(atoms.symbols, atoms.positions.tolist(), strict=True))
    molecule = gto.M(atom=lines, basis="sto-3g", spin=multiplicity - 1, verbose=0)
    symmetric = scf.UHF(molecule).run()
    assert symmetric.converged
    assert record.energy < symmetric.e_tot * Hartree - 1.0  # eV: the start is no near miss
    # From atoms that each have a spin, without looking at stability.
    densities = [unrestricted_atom(symbol, *n) for symbol, n in zip(atoms.symbols, spins, strict=1)]
    guess = np.array([block_diag(*(each[spin] for each in densities)) for spin in (0, 1)])
    broken = scf.UHF(molecule).run(guess, conv_tol=1e-10)
    assert record.energy / Hartree == pytest.approx(broken.e_tot, abs=1e-6)
    # No determinant is below the exact energy.
    assert record.energy / Hartree > fci.FCI(broken).kernel()[0]


def unrestricted_atom(symbol, up, down):
    """Density matrices of both spins of an atom."""
    spin = abs(up - down)
    atom = gto.M(atom=symbol, basis="sto-3g", charge=0, spin=spin, symmetry="D2h", verbose=0)
    field = scf.UHF(atom)
    if symbol == "O":  # of 2p twice x, once y and z: otherwise rounding says which is filled
        field.irrep_nelec = {"Ag": (2, 2), "B3u": (1, 1), "B2u": (1, 0), "B1u": (1, 0)}
    densities = field.run().make_rdm1()
    return densities if up >= down else densities[::-1]


def test_closed_shell_follows_its_instability_where_the_level_says_so(pyscf_with, tmp_path):
    # The guess fills both π orbitals; lower is a third σ orbital (Ag) instead of one of them (B3u).
    carbon = with_state(Atoms("C2", [[0, 0, 0], [0, 0, 1.4]]))
    followed = label(pyscf_with(stability="all"), carbon, tmp_path)
    line = gto.M(atom="C 0 0 0; C 0 0 1.4", basis="sto-3g", symmetry="D2h", verbose=0)
    occupied = scf.RHF(line)
    occupied.irrep_nelec = {"Ag": 6, "B1u": 4, "B2u": 2}
    assert followed.energy / Hartree == pytest.approx(occupied.kernel(), abs=1e-6)
    assert label(pyscf_with(), carbon, tmp_path).energy > followed.energy + 1.0  # eV


def test_degenerate_atom_is_no_unstable_one(pyscf_with, tmp_path):
    reference = pyscf_with(functional="pbe", basis="def2-svp", density_fitting=True)
    assert label(reference, with_state(Atoms("O"), multiplicity=3), tmp_path).status is Status.OK


def test_rescue_by_second_order_and_failure_without(pyscf_with, tmp_path):
    # Four steps are too few for the first solver; each step of the second one has several inside.
    atoms = with_state(molecule("H2O"))
    failed = label(pyscf_with({"max_iterations": 4, "rescue": []}), atoms, tmp_path)
    assert failed.status is Status.UNCONVERGED
    assert "not converged after 4 steps" in failed.message
    rescued = label(pyscf_with({"max_iterations": 4}), atoms, tmp_path)
    assert (rescued.status, rescued.rung) == (Status.OK, 1)
    assert rescued.energy == pytest.approx(label(pyscf_with(), atoms, tmp_path).energy, abs=1e-6)


def test_time_limit_is_a_failed_label(pyscf_with, tmp_path):
    record = label(pyscf_with({"frame_timeout_s": 1e-6}), with_state(molecule("H2O")), tmp_path)
    assert record.status is Status.TIMEOUT
    assert "frame_timeout_s" in record.message


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ({"functional": "pbee"}, "libxc has none of this name; did you mean 'pbe0'"),
        ({"functional": "pbe-d3bj"}, "without dispersion"),
        ({"functional": "wb97x-v"}, "non-local correlation"),
        ({"functional": "lda,vwn", "dispersion": "d3bj"}, "no parameters"),
        ({"dispersion": "d3bk"}, "did you mean 'd3bj'"),
        ({"basis": "def2-svpp"}, "PySCF has no basis set of this name; did you mean 'def2svp"),
    ],
)
def test_unknown_names_are_refused_with_those_near(pyscf_with, level, message):
    with pytest.raises(InputError, match=message):
        pyscf_with(**level)


@pytest.mark.parametrize(
    ("atoms", "basis", "message"),
    [
        (Atoms("I2", [[0, 0, 0], [0, 0, 2.7]]), "cc-pvdz", "no functions for I"),
        (Atoms("I2", [[0, 0, 0], [0, 0, 2.7]]), "sto-3g", "no effective core potential for I"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], cell=[5] * 3, pbc=True), "sto-3g", "molecules only"),
    ],
)
def test_what_cannot_be_labelled_is_refused_before_the_first_job(pyscf_with, atoms, basis, message):
    with pytest.raises(InputError, match=message):
        pyscf_with(basis=basis).check([with_state(atoms)])


def test_heavy_element_has_its_core_potential(pyscf_with):
    reference = pyscf_with(basis="def2-svp")
    reference.check([with_state(Atoms("I2", [[0, 0, 0], [0, 0, 2.7]]))])
    molecule_of = reference._mean_field(with_state(Atoms("IH", [[0, 0, 0], [0, 0, 1.6]]))).mol
    assert molecule_of.nelectron == 54 - 28


def test_shipped_level_is_the_quickstarts():
    settings = PyscfReference(**read_yaml(ROOT / "config/ethanol-pyscf.yaml")["reference"])
    level = Pyscf(settings.model_copy(update={"level": ROOT / settings.level})).level
    assert (level["method"], level["basis"], level["dispersion"]) == ("pbe", "def2-svp", "d3bj")
