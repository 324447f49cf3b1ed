import json
from itertools import product
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from scipy import constants

from halcyon.config import (
    AmberForceField,
    GromacsForceField,
    StructureSettings,
    TeacherSettings,
    XmlForceField,
)
from halcyon.errors import InputError
from halcyon.systems.structures import bonds, start_structure
from halcyon.teacher import dynamics as teacher_dynamics
from halcyon.teacher import openmm_systems
from halcyon.teacher.forcefield import make_teacher
from halcyon.teacher.sampling import sample

DATA = Path(__file__).parents[1] / "data/gaff2"
SHIPPED = Path(__file__).parents[2] / "config/forcefields/small-molecules.xml"
TEMPLATES = {
    "acetaldehyde": "CC=O",
    "acetic-acid": "CC(=O)O",
    "acetone": "CC(C)=O",
    "ammonia": "N",
    "dimethyl-ether": "COC",
    "ethane": "CC",
    "ethanol": "CCO",
    "formaldehyde": "C=O",
    "methane": "C",
    "methanol": "CO",
    "methylamine": "CN",
    "water": "O",
}
HYDROGEN = """<ForceField>
  <AtomTypes><Type name="h" class="h" element="H" mass="1.008"/></AtomTypes>
  <Residues><Residue name="dihydrogen">
    <Atom name="A" type="h"/><Atom name="B" type="h"/><Bond atomName1="A" atomName2="B"/>
  </Residue></Residues>
  {bond}
</ForceField>"""
HARMONIC = (
    '<HarmonicBondForce><Bond class1="h" class2="h" length="0.07" k="300000"/></HarmonicBondForce>'
)


WALLS = ("displaced", "stretched", "contact", "dissociated")


def xml(*files):
    return XmlForceField(kind="forcefield_xml", files=files)


def asked(**changes):
    """Sampling settings with no frames but those asked for."""
    none = {f"{origin}_frames": 0 for origin in WALLS}
    return TeacherSettings(**none | changes)


def molecule(smiles, name="it"):
    settings = StructureSettings(name=name, smiles=smiles)
    atoms = start_structure(settings)
    return atoms, bonds(settings, atoms)


@pytest.fixture(scope="module")
def ethanol():
    atoms, graph = molecule("CCO", "ethanol")
    return make_teacher(xml(SHIPPED), atoms, graph), atoms


@pytest.fixture
def waters():
    """Eight waters on a lattice, turned at random: all oxygens first, as many codes write them."""
    random = np.random.default_rng(0)
    water, _ = molecule("O")
    turned = [
        water.positions @ np.linalg.qr(random.normal(size=(3, 3)))[0] + 3.1 * np.array(place)
        for place in product(range(2), repeat=3)
    ]
    positions = np.concatenate(np.swapaxes(turned, 0, 1))
    atoms = Atoms("O8H16", positions=positions, cell=[6.2] * 3, pbc=True)
    atoms.info = {"charge": 0, "multiplicity": 1, "structure": "waters"}
    return atoms, [(k, 8 + k) for k in range(8)] + [(k, 16 + k) for k in range(8)]


@pytest.fixture
def hydrogen(tmp_path):
    """H2, its bond along (1, 2, 2) and 0.9 Å long, and a force field written by hand."""
    (tmp_path / "h2.xml").write_text(HYDROGEN.format(bond=HARMONIC))
    atoms = Atoms("H2", positions=[[0, 0, 0], [0.3, 0.6, 0.6]])
    return make_teacher(xml(tmp_path / "h2.xml"), atoms, [(0, 1)]), atoms


@pytest.mark.parametrize("name", TEMPLATES)
def test_shipped_template(name):
    teacher = make_teacher(xml(SHIPPED), *molecule(TEMPLATES[name]))
    assert teacher.system.getNumParticles() == len(teacher.numbers)


def test_every_shipped_template_is_tried():
    assert sorted(openmm_systems.read_templates(SHIPPED)) == sorted(TEMPLATES)


def test_shipped_parameters_are_those_of_gaff2():
    """O-H stretch and hydroxyl hydrogen of GAFF 2.2.20; the first GAFF has 371.4 and no term."""
    root = ET.parse(SHIPPED).getroot()  # noqa: S314 (our own file)
    bond = root.find("HarmonicBondForce/Bond[@class1='ho'][@class2='oh']")
    assert float(bond.get("k")) == pytest.approx(2 * 535.51 * constants.calorie * 100)
    hydrogen = root.find("NonbondedForce/Atom[@class='ho']")
    assert float(hydrogen.get("epsilon")) == pytest.approx(0.0047 * constants.calorie)


def test_energy_and_force_by_hand(hydrogen):
    teacher, atoms = hydrogen
    energies, forces = teacher.evaluate([atoms])
    ev_per_kj_mol = 1000 / (constants.N_A * constants.e)
    stretch_nm = 0.09 - 0.07
    assert energies[0] == pytest.approx(0.5 * 300000 * stretch_nm**2 * ev_per_kj_mol, rel=1e-6)
    pull = 300000 * stretch_nm * ev_per_kj_mol / 10 * np.array([1, 2, 2]) / 3
    np.testing.assert_allclose(forces[0], [pull, -pull], rtol=1e-6)


def test_forces_are_the_gradient(ethanol):
    teacher, atoms = ethanol
    atoms = atoms.copy()
    atoms.rattle(0.1, seed=1)
    step, moved = 1e-4, []
    for atom, axis, sign in product(range(len(atoms)), range(3), (1, -1)):
        moved.append(atoms.copy())
        moved[-1].positions[atom, axis] += sign * step
    energies = teacher.evaluate(moved)[0].reshape(-1, 3, 2)
    numerical = -(energies[..., 0] - energies[..., 1]) / (2 * step)
    np.testing.assert_allclose(teacher.evaluate([atoms])[1][0], numerical, atol=1e-5)


def test_wrapping_and_turning_a_periodic_frame_change_nothing(waters):
    atoms, graph = waters
    teacher = make_teacher(xml(SHIPPED), atoms, graph)
    wrapped = atoms.copy()
    wrapped.wrap()
    assert not np.allclose(wrapped.positions, atoms.positions)
    turned = atoms.copy()
    turned.rotate(40, [1, 2, 3], rotate_cell=True)
    energies, forces = teacher.evaluate([atoms, wrapped, turned])
    np.testing.assert_allclose(energies, energies[0], atol=1e-3)
    np.testing.assert_allclose(forces[1], forces[0], atol=2e-3)
    rotation = np.linalg.solve(atoms.cell.array, turned.cell.array)
    np.testing.assert_allclose(forces[2], forces[0] @ rotation, atol=2e-3)


def test_order_of_atoms_does_not_matter(waters):
    atoms, graph = waters
    atoms.pbc = False
    grouped = np.arange(24).reshape(3, 8).T.ravel()  # O H H, O H H, ...
    place = np.argsort(grouped)
    energy, forces = make_teacher(xml(SHIPPED), atoms, graph).evaluate([atoms])
    sorted_graph = [(place[i], place[j]) for i, j in graph]
    other_energy, other_forces = make_teacher(xml(SHIPPED), atoms[grouped], sorted_graph).evaluate(
        [atoms[grouped]]
    )
    assert other_energy == pytest.approx(energy)
    np.testing.assert_allclose(other_forces[0], forces[0][grouped], atol=1e-8)


def test_sample_gives_what_was_asked(ethanol):
    teacher, atoms = ethanol
    settings = asked(temperatures_K=[300, 600, 1200], md_frames=100, displaced_frames=20)
    done = []
    frames, counts = sample(
        teacher, atoms, settings, seed=1, progress=lambda now, total: done.append((now, total))
    )
    assert counts["md"] == 100
    assert sum(counts.values()) == 120 == len(frames) + counts["force_cap"]
    assert done[-1] == (120, 120)
    dynamics = [frame for frame in frames if frame.info["origin"] == "md"]
    energies = {
        temperature: [f.info["energy"] for f in dynamics if f.info["temperature"] == temperature]
        for temperature in settings.temperatures_K
    }
    assert [len(found) for found in energies.values()] == [34, 33, 33]
    assert dynamics[1].info["time"] == pytest.approx(0.05)
    for frame in frames:
        assert frame.info["structure"] == "ethanol"
        assert np.linalg.norm(frame.arrays["forces"], axis=1).max() <= settings.force_cap_eV_per_A
    np.testing.assert_array_equal(
        teacher.evaluate(frames)[1], [frame.arrays["forces"] for frame in frames]
    )


def test_temperatures_are_the_asked_ones():
    methane, graph = molecule("C")
    settings = asked(
        temperatures_K=[300, 600], md_frames=2000, md_interval_fs=50, displaced_frames=0
    )
    frames, _ = sample(make_teacher(xml(SHIPPED), methane, graph), methane, settings, seed=1)
    cold, hot = (
        [frame.info["energy"] for frame in frames if frame.info["temperature"] == temperature]
        for temperature in settings.temperatures_K
    )
    # Equipartition: each of 3N - 6 = 9 vibrations holds kT/2 of potential energy.
    boltzmann = constants.k / constants.e
    assert np.mean(hot) - np.mean(cold) == pytest.approx(9 / 2 * boltzmann * 300, rel=0.1)


def test_displacements_have_the_asked_width(ethanol):
    teacher, atoms = ethanol
    settings = asked(
        temperatures_K=[1.0], md_frames=1, displaced_frames=200, displacement_A=(0.1, 0.1)
    )
    md, *displaced = sample(teacher, atoms, settings, seed=1)[0]
    moves = np.array([frame.positions - md.positions for frame in displaced])
    assert moves.std() == pytest.approx(0.1, rel=0.05)


def test_frames_above_the_force_cap_are_dropped_and_counted(ethanol):
    teacher, atoms = ethanol
    settings = asked(md_frames=3, displaced_frames=6, force_cap_eV_per_A=1e-3)
    frames, counts = sample(teacher, atoms, settings, seed=1)
    assert frames == []
    dropped = {"force_cap": 9, "not_finite": 0, "too_large": 0, "duplicate": 0}
    assert counts == {"md": 0, "displaced": 0} | dropped


@pytest.mark.parametrize("box_A", [12.0, None])
def test_frames_that_have_flown_apart_are_dropped_and_counted(box_A):
    ions = Atoms("Na2", positions=[[0, 0, 0], [3.0, 0, 0]], cell=box_A and [box_A] * 3)
    ions.info = {"charge": 2, "multiplicity": 1, "structure": "pair"}
    teacher = make_teacher(xml("amber14/tip3p.xml"), ions, [])
    frames, counts = sample(teacher, ions, asked(md_frames=30, md_interval_fs=50.0), seed=1)
    # Two like charges from 3 Å on are 11 Å (2 · 3 + 5) apart after some 0.1 ps.
    limit = box_A or 11.0
    assert counts["too_large"] > 15
    assert counts["too_large"] + len(frames) == 30
    assert all(frame.get_distance(0, 1) <= limit for frame in frames)


def same(one, two):
    return all(
        np.array_equal(a.positions, b.positions)
        and np.array_equal(a.arrays["forces"], b.arrays["forces"])
        and a.info == b.info
        for a, b in zip(one, two, strict=True)
    )


def test_same_seed_same_frames(ethanol):
    teacher, atoms = ethanol
    settings = asked(md_frames=30, displaced_frames=10)
    first = sample(teacher, atoms, settings, seed=1)[0]
    assert same(first, sample(teacher, atoms, settings, seed=1)[0])
    other = sample(teacher, atoms, settings, seed=2)[0]
    assert not np.array_equal(first[0].positions, other[0].positions)


def test_same_seed_same_periodic_frames(waters, monkeypatch):
    monkeypatch.setattr(teacher_dynamics, "EQUILIBRATION_PS", 0.02)
    atoms, graph = waters
    teacher = make_teacher(xml(SHIPPED), atoms, graph)
    settings = asked(md_frames=4, displaced_frames=2, temperatures_K=[300])
    first, counts = sample(teacher, atoms, settings, seed=1)
    assert counts["md"] == 4
    assert same(first, sample(teacher, atoms, settings, seed=1)[0])
    for frame in first[:4]:
        assert all(0.8 < frame.get_distance(i, j, mic=True) < 1.2 for i, j in graph)


def test_dynamics_that_blow_up(tmp_path):
    (tmp_path / "stiff.xml").write_text(
        HYDROGEN.format(bond=HARMONIC.replace("300000", "300000000000"))
    )
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7]], info={"structure": "stiff"})
    teacher = make_teacher(xml(tmp_path / "stiff.xml"), atoms, [(0, 1)])
    with pytest.raises(InputError, match="structure stiff: the force field's dynamics"):
        sample(teacher, atoms, asked(md_frames=3), seed=1)


def test_other_frames_are_refused(ethanol):
    teacher, atoms = ethanol
    with pytest.raises(ValueError, match="not the teacher's atoms"):
        teacher.evaluate([atoms[::-1]])


def test_openmm_brings_force_fields(waters):
    make_teacher(xml(Path("amber14/tip3p.xml")), *waters)


@pytest.fixture
def stored_ethanol():
    """Ethanol with the energy that ParmEd gives it, see tests/data/gaff2/README.md."""
    stored = json.loads((DATA / "reference.json").read_text(encoding="utf-8"))
    wanted = stored["molecules"]["ethanol"]
    atoms = Atoms(wanted["numbers"], positions=wanted["positions_A"], info={"structure": "it"})
    kj_per_mol = sum(wanted["energy_kJ_per_mol"].values())
    return (
        atoms,
        [tuple(b) for b in wanted["bonds"]],
        kj_per_mol * 1000 / constants.N_A / constants.e,
    )


def amber(path):
    return AmberForceField(kind="amber", prmtop={"it": path})


def gromacs(path):
    return GromacsForceField(kind="gromacs", top={"it": path})


@pytest.mark.parametrize(
    "forcefield", [amber(DATA / "ethanol.prmtop"), gromacs(DATA / "ethanol.top")]
)
def test_topology_files(stored_ethanol, forcefield):
    atoms, graph, energy = stored_ethanol
    teacher = make_teacher(forcefield, atoms, graph)
    assert teacher.evaluate([atoms])[0] == pytest.approx([energy], abs=1e-6)


def topology_fault(forcefield, atoms, graph):
    with pytest.raises(InputError) as caught:
        make_teacher(forcefield, atoms, graph)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "key"), [(amber, "prmtop"), (gromacs, "top")])
def test_topology_faults(stored_ethanol, tmp_path, kind, key):
    atoms, graph, _ = stored_ethanol
    good = DATA / f"ethanol.{key}"
    (tmp_path / "broken").write_text("nothing of the kind\n[ atoms ]\n1\n")
    here = f"structure it: forcefield.{key}: "
    assert topology_fault(kind(tmp_path / "no"), atoms, graph).startswith(
        f"{here}{tmp_path}/no: no such file"
    )
    assert "OpenMM cannot use it" in topology_fault(kind(tmp_path / "broken"), atoms, graph)
    assert "9 atoms, expected 8" in topology_fault(kind(good), atoms[:8], [(0, 1)])
    order = [0, 2, 1, 3, 4, 5, 6, 7, 8]
    other = atoms[order]
    assert "atom 1 is C, expected O as in the structure" in topology_fault(kind(good), other, graph)
    atoms.info["structure"] = "that"
    assert topology_fault(kind(good), atoms, graph) == (
        f"structure that: forcefield.{key}: no file for it; there are files for it"
    )


def test_rigid_water_becomes_flexible(tmp_path):
    """Constraints off where the file has the terms; refused where it has not."""
    water, graph = molecule("O")
    teacher = make_teacher(xml("spce.xml"), water, graph)
    assert teacher.system.getNumConstraints() == 0
    assert {type(force).__name__ for force in teacher.system.getForces()} >= {
        "HarmonicBondForce",
        "HarmonicAngleForce",
    }
    assert "virtual sites" in topology_fault(xml("tip4pew.xml"), water, graph)
    text = (openmm_systems.OPENMM_FORCEFIELDS / "spce.xml").read_text(encoding="utf-8")
    begin, _, rest = text.partition("<HarmonicAngleForce>")
    (tmp_path / "hinge.xml").write_text(begin + rest.partition("</HarmonicAngleForce>")[2])
    said = topology_fault(xml(tmp_path / "hinge.xml"), water, graph)
    assert "no term for the angles H-O-H. The force field is rigid" in said


def test_missing_template():
    with pytest.raises(InputError) as caught:
        make_teacher(xml(SHIPPED), *molecule("CCCO", "propanol"))
    message = str(caught.value)
    assert message.startswith("structure propanol: forcefield: no residue template for C3H8O")
    assert f"{SHIPPED} has acetaldehyde, acetic-acid" in message


def test_same_formula_other_bonds_is_missing():
    atoms, _ = molecule("CCO")
    with pytest.raises(InputError, match=r"no residue template for C2H6O \(atoms C0, C1, "):
        make_teacher(xml(SHIPPED), atoms, [(i, i + 1) for i in range(8)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<ForceField><Residues>", "not valid XML"),
        ("", "not valid XML"),
        ("<amber/>", "root element <amber>, expected OpenMM's <ForceField>"),
        (HYDROGEN.format(bond="<NonbondedForce/>"), "cannot use it"),
        (HYDROGEN.format(bond=""), "no term for the bonds H-H"),
    ],
)
def test_broken_forcefield(tmp_path, content, message):
    (tmp_path / "broken.xml").write_text(content)
    with pytest.raises(InputError) as caught:
        make_teacher(xml(tmp_path / "broken.xml"), Atoms("H2", [[0, 0, 0], [0, 0, 0.7]]), [(0, 1)])
    assert f"forcefield: {tmp_path}/broken.xml: " in str(caught.value)
    assert message in str(caught.value)


def test_missing_forcefield():
    with pytest.raises(InputError, match=r"forcefield: none\.xml: no such file"):
        make_teacher(xml(Path("none.xml")), *molecule("O"))


def small_cell(shear=0.0):
    """Four waters on a lattice, turned at random, in a cell 4.9 Å wide; its bonds."""
    random = np.random.default_rng(0)
    water, _ = molecule("O")
    cell = np.array([[4.9, 0, 0], [shear, 4.9, 0], [-shear, shear, 5.2]])
    places = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]) @ cell
    positions = np.concatenate(
        [water.positions @ np.linalg.qr(random.normal(size=(3, 3)))[0] + p for p in places]
    )
    atoms = Atoms("OH2" * 4, positions=positions, cell=cell, pbc=True)
    atoms.info = {"charge": 0, "multiplicity": 1, "structure": "ice"}
    return atoms, [(3 * k, 3 * k + h) for k in range(4) for h in (1, 2)]


@pytest.mark.parametrize("shear", [0.0, 1.7, 2.9])
def test_a_small_cell_has_the_energy_and_forces_of_its_supercell(shear):
    atoms, graph = small_cell(shear)
    wrapped = atoms.copy()
    wrapped.wrap()
    teacher = make_teacher(xml("amber14/tip3p.xml"), atoms, graph)
    assert teacher.copies == 8
    energies, forces = teacher.evaluate([atoms, wrapped])
    # The same cell, repeated by ASE: a structure of its own.
    repeated = atoms.repeat(2)
    repeated.info = atoms.info
    bonds_of_all = [(12 * copy + i, 12 * copy + j) for copy in range(8) for i, j in graph]
    large = make_teacher(xml("amber14/tip3p.xml"), repeated, bonds_of_all)
    assert large.copies == 1
    energy, force = large.evaluate([repeated])
    np.testing.assert_allclose(energies, energy[0] / 8, atol=1e-3)
    np.testing.assert_allclose(forces[0], force[0][:12], atol=2e-3)
    np.testing.assert_allclose(forces[1], force[0][:12], atol=2e-3)
    assert np.abs(force[0]).max() > 0.5, "there is something to compare"


def test_dynamics_of_a_small_cell_have_the_asked_temperature(monkeypatch):
    atoms, graph = small_cell()
    teacher = make_teacher(xml("amber14/tip3p.xml"), atoms, graph)
    monkeypatch.setattr(teacher_dynamics, "SEGMENT", 1)  # each frame leaves its velocities
    run = teacher_dynamics.Run(
        teacher, atoms, 500.0, interval_fs=20.0, seed=np.random.SeedSequence(1)
    )
    kinetic = []
    for _ in range(150):
        frame = next(run)
        velocities = run._state[1][teacher.particles] * 1000  # m/s
        kinetic.append((frame.get_masses() * (velocities**2).sum(axis=1)).sum() / 2)
    joule = np.mean(kinetic) * constants.atomic_mass
    temperature = 2 * joule / (3 * len(atoms) * constants.k)
    # 36 degrees of freedom; some 30 of the 150 frames are independent: 500 · √(2/36/30) = 22 K.
    assert temperature == pytest.approx(500, abs=65)


def test_walls_of_a_small_cell_are_sampled():
    atoms, graph = small_cell()
    teacher = make_teacher(xml("amber14/tip3p.xml"), atoms, graph)
    settings = asked(md_frames=6, contact_frames=6, stretched_frames=3, temperatures_K=[300.0])
    frames, counts = sample(teacher, atoms, settings, seed=1)
    again, _ = sample(teacher, atoms, settings, seed=1)
    assert counts["contact"] >= 3
    near = [f.get_all_distances(mic=True)[np.triu_indices(12, 1)].min() for f in frames]
    assert min(near) > 0.5
    for one, two in zip(frames, again, strict=True):
        np.testing.assert_array_equal(one.positions, two.positions)


def test_a_topology_file_cannot_be_repeated(stored_ethanol, tmp_path):
    atoms, graph, _ = stored_ethanol
    small = atoms.copy()
    small.info = dict(atoms.info)
    small.cell, small.pbc = [6.0] * 3, True
    settings = AmberForceField(kind="amber", prmtop={"ethanol": tmp_path / "it.prmtop"})
    with pytest.raises(InputError, match=r"6\.00 Å wide, and the force field needs 8\.16 Å"):
        make_teacher(settings, small, graph)


def test_ions_of_a_salt_are_templates_of_their_own():
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    pairs = bonds(StructureSettings(name="salt", file="salt.cif"), salt)
    assert len(pairs) > 0
    assert openmm_systems.without_ionic(salt, pairs) == []
    # Carbon of a carbonate holds its oxygens, and calcium touches these.
    carbonate = Atoms("CaCO3", np.arange(15).reshape(5, 3))
    near = [(0, 2), (1, 2), (1, 3), (1, 4)]
    assert openmm_systems.without_ionic(carbonate, near) == near


@pytest.mark.parametrize(
    ("name", "file", "measured_A"),
    [
        ("NaCl", Path("amber14/tip3p.xml"), 5.64),
        ("MgO", SHIPPED.with_name("mgo.xml"), 4.212),
    ],
)
def test_a_salt_by_ions_has_its_lattice_constant(name, file, measured_A):
    files = XmlForceField(kind="forcefield_xml", files=[file])
    energies = {}
    # In the smaller cells sodium touches sodium.
    for a in measured_A * np.array([0.96, 0.98, 1.0, 1.02, 1.04]):
        salt = bulk(name, "rocksalt", a=a, cubic=True).repeat(2)
        teacher = make_teacher(files, salt, bonds(StructureSettings(name="s", file="s.cif"), salt))
        assert teacher.bonds == ()
        assert teacher.charge_e == pytest.approx(0.0, abs=1e-9)
        energies[a] = teacher.evaluate([salt])[0][0]
    least = min(energies, key=energies.get)
    assert least == pytest.approx(measured_A, rel=0.021)  # as measured at room temperature
