"""Frames up against the walls: how each kind is made, and that all of it is repeatable."""

import numpy as np
import pytest
from ase import Atoms

from conftest import ROOT
from halcyon.config import StructureSettings, TeacherSettings, XmlForceField, XtbForceField
from halcyon.errors import Interrupted
from halcyon.systems.packing import packed_bonds, packed_structure
from halcyon.systems.structures import bonds, start_structure
from halcyon.teacher import dynamics, sampling
from halcyon.teacher.forcefield import make_teacher
from halcyon.teacher.sampling import ORIGINS, sample

FILES = {
    name: XmlForceField(kind="forcefield_xml", files=[ROOT / f"config/forcefields/{name}.xml"])
    for name in ("small-molecules", "hydrogen-combustion")
}
WATER = StructureSettings(name="water", smiles="O")


def asked(**changes):
    """Sampling settings with no frames but those asked for."""
    none = {f"{origin}_frames": 0 for origin in ORIGINS if origin != "md"}
    return TeacherSettings(**none | {"md_frames": 20} | changes)


def teacher_of(smiles, forcefield="small-molecules"):
    settings = StructureSettings(name="it", smiles=smiles)
    atoms = start_structure(settings)
    return make_teacher(FILES[forcefield], atoms, bonds(settings, atoms)), atoms


def drawn(teacher, atoms, origin, number=40, **changes):
    """Frames of one origin, all forces allowed."""
    settings = asked(
        **{f"{origin}_frames": number, "force_cap_eV_per_A": 1e9, "min_difference_A": 0.0} | changes
    )
    frames, counts = sample(teacher, atoms, settings, seed=1)
    assert counts[origin] == number
    return [frame for frame in frames if frame.info["origin"] == origin]


def lengths(frame, pairs):
    return np.array([frame.get_distance(i, j, mic=bool(frame.pbc.any())) for i, j in pairs])


@pytest.fixture(scope="module")
def ethanol():
    return teacher_of("CCO")


@pytest.fixture(scope="module")
def hydrogen():
    """A teacher that a program computes."""
    settings = StructureSettings(name="it", smiles="[H][H]")
    atoms = start_structure(settings)
    return make_teacher(XtbForceField(kind="xtb"), atoms, bonds(settings, atoms)), atoms


@pytest.fixture(scope="module")
def waters():
    """Eight waters in a periodic box."""
    box = StructureSettings(name="box", pack={"water": 8}, density_g_per_cm3=0.9)
    atoms = packed_structure(box, {"water": WATER}, seed=1)
    forcefield = XmlForceField(kind="forcefield_xml", files=["amber14/tip3p.xml"])
    return make_teacher(forcefield, atoms, packed_bonds(box, {"water": WATER})), atoms


@pytest.mark.parametrize(
    ("origin", "low", "high"), [("stretched", 0.7, 1.5), ("dissociated", 1.5, 2.5)]
)
def test_one_bond_is_pulled_and_all_others_stay(ethanol, origin, low, high):
    teacher, atoms = ethanol
    usual = lengths(atoms, teacher.bonds)
    seen = set()
    for frame in drawn(teacher, atoms, origin, temperatures_K=[10.0]):
        ratio = lengths(frame, teacher.bonds) / usual
        moved = np.flatnonzero(np.abs(ratio - 1) > 0.05)
        assert len(moved) <= 1
        seen |= set(moved.tolist())
        assert all(low - 0.05 < value < high + 0.1 for value in ratio[moved])
    assert len(seen) > 4  # different bonds


def test_bonds_in_a_ring_can_be_pulled():
    settings = StructureSettings(name="it", smiles="C1CC1")
    atoms = start_structure(settings)
    teacher = make_teacher_from_gaff2(settings, atoms)
    frames = drawn(teacher, atoms, "stretched", number=20, temperatures_K=[10.0])
    assert all(np.isfinite(frame.positions).all() for frame in frames)


def make_teacher_from_gaff2(settings, atoms):
    from halcyon.config import Gaff2ForceField
    from halcyon.systems.structures import molecules

    graph = bonds(settings, atoms)
    return make_teacher(
        Gaff2ForceField(kind="gaff2"),
        atoms,
        graph,
        molecules=lambda: {"it": molecules(settings, atoms, graph)},
    )


def test_contacts_are_closer_and_bonds_hold(ethanol):
    teacher, atoms = ethanol
    far = np.argwhere(np.triu(sampling._bonds_between(teacher) >= 3, k=1)).tolist()
    usual = lengths(atoms, teacher.bonds)
    closest = []
    for frame in drawn(teacher, atoms, "contact", temperatures_K=[300.0]):
        closest.append(lengths(frame, far).min())
        assert np.abs(lengths(frame, teacher.bonds) - usual).max() < 0.6
    free = [
        lengths(frame, far).min()
        for frame in sample(teacher, atoms, asked(temperatures_K=[300.0]), seed=1)[0]
    ]
    assert np.median(closest) < np.min(free) - 0.3


def test_springs_do_not_enter_the_labels(ethanol):
    teacher, atoms = ethanol
    frames = drawn(teacher, atoms, "contact", number=5)
    again = make_teacher(FILES["small-molecules"], atoms, teacher.bonds)
    np.testing.assert_array_equal(
        again.evaluate(frames)[1], [frame.arrays["forces"] for frame in frames]
    )


def test_molecules_of_a_box_are_pushed_together(waters, monkeypatch):
    monkeypatch.setattr(dynamics, "EQUILIBRATION_PS", 0.02)
    monkeypatch.setattr(sampling, "CONTACT", (0.4, 0.4))
    teacher, atoms = waters
    molecule = np.arange(24) // 3
    other = molecule[:, None] != molecule[None, :]
    settings = {"md_frames": 4, "temperatures_K": [300.0]}
    pushed = drawn(teacher, atoms, "contact", number=8, **settings)
    free = sample(teacher, atoms, asked(**settings), seed=1)[0]
    least, usual = (
        min(frame.get_all_distances(mic=True)[other].min() for frame in frames)
        for frames in (pushed, free)
    )
    assert least < usual - 0.2
    for frame in pushed:
        assert np.abs(lengths(frame, teacher.bonds) - 0.96).max() < 0.3


def test_two_atoms_have_no_contact():
    teacher, atoms = teacher_of("[H][H]", "hydrogen-combustion")
    frames, counts = sample(teacher, atoms, asked(contact_frames=5), seed=1)
    assert counts["contact"] == 0
    assert len(frames) == sum(counts.values()) - counts["duplicate"]


def test_repeated_frames_are_dropped_and_counted():
    """Two atoms have one distance: frames in the same half thousandth of an ångström repeat."""
    teacher, atoms = teacher_of("[H][H]", "hydrogen-combustion")
    settings = asked(md_frames=300, temperatures_K=[300.0])
    frames, counts = sample(teacher, atoms, settings, seed=1)
    assert counts["md"] == len(frames) == 300 - counts["duplicate"]
    assert counts["duplicate"] > 50
    apart = np.diff(np.sort([frame.get_distance(0, 1) for frame in frames]))
    assert apart.min() >= settings.min_difference_A
    all_frames, _ = sample(
        teacher, atoms, settings.model_copy(update={"min_difference_A": 0.0}), seed=1
    )
    assert len(all_frames) == 300


def same(one, two):
    return len(one) == len(two) and all(
        np.array_equal(a.positions, b.positions)
        and np.array_equal(a.arrays["forces"], b.arrays["forces"])
        and a.info == b.info
        for a, b in zip(one, two, strict=True)
    )


def test_same_seed_same_frames_of_all_origins(ethanol):
    teacher, atoms = ethanol
    first, counts = sample(
        teacher, atoms, TeacherSettings(md_frames=30, dissociated_frames=10), seed=1
    )
    assert all(counts[origin] > 5 for origin in ORIGINS)
    assert same(
        first,
        sample(teacher, atoms, TeacherSettings(md_frames=30, dissociated_frames=10), seed=1)[0],
    )
    assert not same(
        first,
        sample(teacher, atoms, TeacherSettings(md_frames=30, dissociated_frames=10), seed=2)[0],
    )


def test_same_seed_same_frames_of_a_liquid(waters, monkeypatch):
    monkeypatch.setattr(dynamics, "EQUILIBRATION_PS", 0.02)
    teacher, atoms = waters
    settings = TeacherSettings(
        md_frames=3,
        displaced_frames=2,
        stretched_frames=2,
        contact_frames=2,
        dissociated_frames=2,
        temperatures_K=[300.0],
    )
    first = sample(teacher, atoms, settings, seed=1)[0]
    assert same(first, sample(teacher, atoms, settings, seed=1)[0])


def test_walls_do_not_change_the_dynamics(ethanol):
    """Labels are drawn from the dynamics: they must not depend on the walls' settings."""
    teacher, atoms = ethanol
    bare = sample(teacher, atoms, asked(), seed=1)[0]
    walls = sample(teacher, atoms, TeacherSettings(md_frames=20), seed=1)[0]
    assert same(bare, [frame for frame in walls if frame.info["origin"] == "md"])


def test_structures_not_pretrained_on_get_dynamics_alone():
    settings = TeacherSettings().without_walls(700.0)
    assert settings.temperatures_K == [300.0, 600.0]
    assert settings.md_frames == 300
    assert not any(getattr(settings, f"{o}_frames") for o in ORIGINS if o != "md")
    assert TeacherSettings().without_walls(100.0).temperatures_K == [300.0, 600.0, 1200.0]


def test_frames_of_one_atom():
    assert sampling._KeptFrames(0.1).is_new(Atoms("H"))


@pytest.mark.parametrize("box", ["ethanol", "waters", "hydrogen"])
def test_dynamics_that_are_stopped_go_on_to_the_same_frames(request, monkeypatch, tmp_path, box):
    teacher, atoms = request.getfixturevalue(box)
    monkeypatch.setattr(dynamics, "EQUILIBRATION_PS", 0.02)
    monkeypatch.setattr(dynamics, "SEGMENT", 4)
    settings = asked(md_frames=24, temperatures_K=[300.0, 600.0], md_interval_fs=2.0)
    calm, _ = sample(teacher, atoms, settings, seed=3)
    began = []
    usual = dynamics.Run._begin_segment
    monkeypatch.setattr(dynamics.Run, "_begin_segment", lambda run: (began.append(1), usual(run)))

    def stop_at(number):
        def progress(done, _asked):
            if done == number:
                raise Interrupted

        return progress

    for stop in (3, 11, 18):  # in the first segment, in the third, and in the other run's second
        with pytest.raises(Interrupted):
            sample(teacher, atoms, settings, seed=3, saved=tmp_path, progress=stop_at(stop))
    resumed, _ = sample(teacher, atoms, settings, seed=3, saved=tmp_path)
    for one, other in zip(calm, resumed, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        assert one.info == other.info
    # 6 segments in all; each stop costs the one it falls into, and no other.
    assert len(began) == 6 + 3


def test_damaged_or_other_dynamics_are_not_gone_on_with(ethanol, monkeypatch, tmp_path):
    teacher, atoms = ethanol
    monkeypatch.setattr(dynamics, "EQUILIBRATION_PS", 0.02)
    monkeypatch.setattr(dynamics, "SEGMENT", 4)
    settings = asked(md_frames=8, temperatures_K=[300.0], md_interval_fs=2.0)
    calm, _ = sample(teacher, atoms, settings, seed=3, saved=tmp_path)
    (saved,) = tmp_path.glob("*.npz")
    saved.write_bytes(saved.read_bytes()[:200])
    again, _ = sample(teacher, atoms, settings, seed=3, saved=tmp_path)
    np.testing.assert_array_equal(calm[-1].positions, again[-1].positions)
    other, _ = sample(teacher, atoms, settings, seed=4, saved=tmp_path)
    assert not np.array_equal(calm[-1].positions, other[-1].positions)
    assert len(list(tmp_path.glob("*.npz"))) == 2
