"""Meshes of k-points and smeared electrons in CP2K's input: nothing here starts CP2K."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc100, molecule
from test_cp2k_input import LEVEL, data_dir  # noqa: F401 - a fixture

from halcyon.config import Cp2kReference
from halcyon.errors import InputError
from halcyon.labels.reference.cp2k.input import frame_tree
from halcyon.labels.reference.cp2k.kpoints import check_meshes, mesh, section
from halcyon.labels.reference.cp2k.level import read_level
from halcyon.labels.reference.cp2k.rescue import is_possible

pytestmark = pytest.mark.usefixtures("cp2k_schema_read_once")

SMEAR = "smear: {method: FERMI_DIRAC, electronic_temperature: 1000}"


@pytest.fixture
def level(tmp_path):
    """Read a level, its SCF with these words more."""

    def read(scf="", spacing=None, **changes):
        text = LEVEL.replace("eps_scf: 1.0E-6,", f"eps_scf: 1.0E-6, {scf}")
        for before, after in changes.values():
            assert before in text
            text = text.replace(before, after)
        path = tmp_path / "level.yaml"
        path.write_text(text)
        return read_level(path, spacing)

    return read


def ice(edge=4.0, multiplicity=1):
    """One water in a cubic cell."""
    atoms = molecule("H2O", cell=[edge] * 3, pbc=True)
    atoms.info = {"charge": 0, "multiplicity": multiplicity, "structure": "ice"}
    return atoms


def test_a_mesh_follows_the_reciprocal_cell():
    """Reciprocal vectors of a face-centred cubic crystal have the length 2π √3 / a."""
    crystal = bulk("MgO", "rocksalt", a=4.21)
    length = 2 * np.pi * np.sqrt(3) / 4.21
    assert mesh(crystal, length / 3 + 1e-3) == (3, 3, 3)
    assert mesh(crystal, length / 3 - 1e-3) == (4, 4, 4)
    assert mesh(crystal, length / 3) == (3, 3, 3)  # no rounding error adds one
    assert mesh(crystal, 5.0) == (1, 1, 1)
    tetragonal = Atoms("H", cell=[3.0, 3.0, 6.0], pbc=True)
    assert mesh(tetragonal, 2 * np.pi / 12 + 1e-6) == (4, 4, 2)
    assert mesh(tetragonal.repeat((2, 1, 2)), 2 * np.pi / 12 + 1e-6) == (2, 4, 1)


def test_there_is_one_k_point_across_a_vacuum():
    slab = fcc100("Al", (1, 1, 3), vacuum=6.0)
    slab.pbc = True
    assert mesh(slab, 0.2)[2] == 1
    assert mesh(slab, 0.2)[0] > 5


def test_every_mesh_contains_gamma():
    """The points of CP2K's scheme MACDONALD: (2r − n − 1)/(2n) and a shift, r from 1 to n."""
    for numbers in [(1, 2, 3), (4, 5, 6)]:
        scheme, *words = section(numbers)["SCHEME"]
        assert scheme == "MACDONALD"
        assert tuple(words[:3]) == numbers
        for number, shift in zip(words[:3], words[3:], strict=True):
            points = (2 * np.arange(1, number + 1) - number - 1) / (2 * number) + shift
            assert np.abs(points).min() < 1e-12


def test_a_frame_gets_its_mesh_and_the_level_its_spacing(level, data_dir):  # noqa: F811
    fine, gamma = level(spacing=0.8), level()
    dft = frame_tree(fine, ice(), data_dir)["+FORCE_EVAL"][0]["+DFT"]
    assert dft["+KPOINTS"]["SCHEME"][1:4] == (2, 2, 2)
    for of_level, edge in ((fine, 8.0), (gamma, 4.0)):
        tree = frame_tree(of_level, ice(edge), data_dir)
        assert "+KPOINTS" not in tree["+FORCE_EVAL"][0]["+DFT"]
    assert fine.identity(data_dir) != level(spacing=0.7).identity(data_dir)
    assert "k_spacing_per_A" not in gamma.identity(data_dir)  # levels of earlier releases stay
    assert fine.finer(1.5).k_spacing_per_A == 0.8


def test_molecules_have_no_k_points(level, data_dir):  # noqa: F811
    water = ice(8.0)
    water.pbc = False
    with pytest.raises(InputError, match=r"structure ice: pbc.*k_spacing_per_A = 0\.8: k-points"):
        frame_tree(level(spacing=0.8), water, data_dir)


@pytest.mark.parametrize(
    ("scf", "changes", "expected"),
    [
        ("ot: {minimizer: DIIS},", {}, r"DFT/SCF/OT: not with k-points.*DIAGONALIZATION"),
        ("diagonalization: {algorithm: OT},", {}, r"ALGORITHM = OT: not with k-points"),
        (
            "",
            {"xc": ("_: PBE}", "_: PBE}, hf: {fraction: 0.25}")},
            r"XC/HF: exact exchange: not with k-points",
        ),
        (
            "",
            {"admm": ("    xc:", "    auxiliary_density_matrix_method: {}\n    xc:")},
            r"AUXILIARY_DENSITY_MATRIX_METHOD: not with",
        ),
        ("", {"roks": ("    xc:", "    roks: true\n    xc:")}, r"ROKS: not with k-points.*UKS"),
        ("", {"qs": ("    xc:", "    qs: {method: LRIGPW}\n    xc:")}, r"METHOD = LRIGPW"),
    ],
)
def test_what_cp2k_cannot_do_with_k_points_is_refused(level, scf, changes, expected):
    level(scf, **changes)
    with pytest.raises(InputError, match=expected):
        level(scf, 0.5, **changes)


def test_a_spacing_at_which_the_mesh_would_change_is_refused():
    """The mesh of a cube of 4 Å: 2π/(4 Å)/0.52 = 3.02, which 3 % make 2.93 or 3.11."""
    cube = ice()
    with pytest.raises(InputError, match=r"structure ice.*3 × 3 × 3 or 4 × 4 × 4.*e\.g\. 0\.50"):
        check_meshes([cube], 0.52)
    check_meshes([cube], 0.50)


def test_smearing_needs_orbitals_diagonalisation_and_a_known_method(level, data_dir):  # noqa: F811
    level(f"added_mos: 5, {SMEAR},")
    for scf, expected in (
        (f"{SMEAR},", r"SMEAR, but ADDED_MOS = 0: expected -1, for all empty"),
        (f"added_mos: 5, ot: {{minimizer: DIIS}}, {SMEAR},", r"SMEAR and OT"),
        ("added_mos: 5, smear: {method: ENERGY_WINDOW},", r"ENERGY_WINDOW: expected FERMI_DIRAC"),
        (
            f"added_mos: 5, {SMEAR[:-1]}, fixed_magnetic_moment: 1}},",
            r"FIXED_MAGNETIC_MOMENT = 1\.0: belongs to the structure",
        ),
    ):
        with pytest.raises(InputError, match=expected):
            level(scf)
    for multiplicity, moment in ((1, None), (3, 2.0)):
        tree = frame_tree(level(f"added_mos: 5, {SMEAR},"), ice(4.0, multiplicity), data_dir)
        scf = tree["+FORCE_EVAL"][0]["+DFT"]["+SCF"]
        assert scf["+SMEAR"].get("FIXED_MAGNETIC_MOMENT") == moment
        assert scf["ADDED_MOS"] == (5 if moment is None else (5, 5))


def test_smeared_spins_are_not_held_with_k_points(level, data_dir):  # noqa: F811
    smeared = level(f"added_mos: -1, {SMEAR},", 0.8)
    frame_tree(smeared, ice(4.0), data_dir)
    frame_tree(smeared, ice(8.0, 3), data_dir)  # the Γ point alone
    with pytest.raises(InputError, match=r"multiplicity = 3: CP2K cannot hold.*\(2 × 2 × 2\)"):
        frame_tree(smeared, ice(4.0, 3), data_dir)


def test_rungs_with_ot_are_not_climbed_where_ot_is_impossible(level, data_dir):  # noqa: F811
    plain, with_k, smeared = (
        frame_tree(of_level, ice(), data_dir)
        for of_level in (level(), level(spacing=0.8), level(f"added_mos: 5, {SMEAR},"))
    )
    assert is_possible(plain, "conjugate_gradients")
    for tree in (with_k, smeared):
        assert not is_possible(tree, "conjugate_gradients")
        assert is_possible(tree, "diagonalisation")
    assert is_possible(with_k, "smearing")
    assert not is_possible(frame_tree(level(spacing=0.8), ice(4.0, 3), data_dir), "smearing")


def test_a_spacing_is_a_length(tmp_path):
    with pytest.raises(ValueError, match="k_spacing_per_A"):
        Cp2kReference(backend="cp2k", level=tmp_path, k_spacing_per_A=0)
