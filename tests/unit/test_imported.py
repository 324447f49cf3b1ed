"""Labels that one has: sorted out, held against the reference's own, split, and kept."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.io import write
from fabricated import campaign as fabricated_campaign

from halcyon.campaign.imports import take_over
from halcyon.config import DatasetLayout, Settings, XtbReference
from halcyon.config.learning import SeedSettings
from halcyon.errors import InputError
from halcyon.frames import structure_key
from halcyon.labels import imported
from halcyon.labels.agreement import compare, fault
from halcyon.labels.labelling import Labeller
from halcyon.labels.reference import make_reference
from halcyon.labels.store import LabelStore
from halcyon.labels.verifying import drawn, keep, refuse_unusable, verify

FILES = {"from": ["set.xyz"], "train": 4, "validation": 5, "test": 5}


@pytest.fixture(scope="module")
def xtb():
    return make_reference(XtbReference(backend="xtb"))


@pytest.fixture
def had(rattled, xtb, tmp_path):
    """Frames of water that GFN2-xTB has labelled, as `sort_out` returns them."""
    frames = rattled(20)
    for frame, record in zip(frames, xtb.label(frames, tmp_path, 1), strict=True):
        frame.info |= {"energy": record.energy, "key": structure_key(frame), "status": "ok"}
        frame.info |= {"origin": "imported from set.xyz"}
        frame.arrays["forces"] = record.forces
    return frames


def labeller(xtb, folder):
    return Labeller(
        reference=xtb, store=LabelStore(folder, xtb.level), work=folder, cores=1, provenance={}
    )


def changed(frames, *, energy=lambda e, _n: e, forces=lambda f: f):
    """Copies whose labels were changed, as if their file had been read so."""
    copies = [frame.copy() for frame in frames]
    for frame in copies:
        frame.info["energy"] = energy(frame.info["energy"], len(frame))
        frame.arrays["forces"] = forces(frame.arrays["forces"])
    return copies


def write_set(path, frames, **more):
    """As somebody writes them: in hartree, under names of their own, atoms in another order."""
    written = []
    for frame in frames:
        order = [1, 0, 2]
        other = Atoms(frame.numbers[order], positions=frame.positions[order])
        other.info = {"REF_energy": frame.info["energy"] / units.Hartree, "total_charge": 0} | more
        forces = frame.arrays["forces"][order]
        other.arrays["REF_forces"] = forces / units.Hartree * units.Bohr
        written.append(other)
    write(path, written, format="extxyz", append=path.exists())


HARTREE = DatasetLayout(energy_unit="Ha", forces_unit=("Ha", "bohr"))


def test_frames_are_sorted_out_and_counted_by_reason(tmp_path, had, water):
    path = tmp_path / "set.xyz"
    write_set(path, had)
    write_set(path, had[:2])
    write_set(path, changed(had[2:3], energy=lambda e, _n: e + 1))
    write_set(path, had[:3], total_charge=2)
    write_set(path, had[:1], multiplicity=3)
    write_set(path, changed(had[4:5], forces=lambda f: f * np.nan))
    for symbols in ("HF", "ClHH", "HO"):
        other = Atoms(symbols, positions=[(0, 0, i) for i in range(len(Atoms(symbols)))])
        other.info = {"REF_energy": -1.0, "total_charge": 0}
        other.arrays["REF_forces"] = np.zeros((len(other), 3))
        write(path, other, format="extxyz", append=True)
    result = imported.sort_out([path], HARTREE, [water], bonds={"water": [(0, 1), (0, 2)]})
    assert result.read == 31
    assert result.left_out == {
        "duplicate": 2,
        "duplicate with another energy": 1,
        "other charge (2)": 3,
        "other multiplicity (3)": 1,
        "a number is not finite (force)": 1,
        "other elements (F)": 1,
        "other elements (Cl)": 1,
        "other composition (HO)": 1,
    }
    assert len(result.frames) == 20
    for frame, before in zip(result.frames, had, strict=True):
        assert (frame.numbers == water.numbers).all()
        assert frame.info["structure"] == "water"
        assert frame.info["energy"] == pytest.approx(before.info["energy"], abs=1e-8)
        # extended XYZ has eight decimals of hartree/bohr
        assert frame.arrays["forces"] == pytest.approx(before.arrays["forces"], abs=1e-6)


def test_broken_molecules_have_other_bonds(tmp_path, had, water):
    broken = had[0].copy()
    broken.positions[1] += 3.0
    write_set(tmp_path / "set.xyz", [*had, broken])
    bonds = {"water": [(0, 1), (0, 2)]}
    result = imported.sort_out([tmp_path / "set.xyz"], HARTREE, [water], bonds=bonds)
    assert result.left_out == {"other bonds": 1}
    reactive = imported.sort_out([tmp_path / "set.xyz"], HARTREE, [water], bonds={"water": None})
    assert not reactive.left_out


def test_a_set_without_a_frame_of_use_is_refused_with_the_reasons(tmp_path, had, water):
    path = tmp_path / "set.xyz"
    write_set(path, had, total_charge=2)
    result = imported.sort_out([path], HARTREE, [water], bonds={"water": None})
    with pytest.raises(InputError, match=r"no frame of .* in 20 frames: 20 other charge \(2\)"):
        refuse_unusable(result, [path])


def test_labels_of_the_same_level_agree_and_are_kept(tmp_path, had, xtb):
    settings = SeedSettings(**FILES, verified_frames=3)
    found = imported.SortedOut(frames=had, read=20)
    agreement, computed = verify(found, labeller(xtb, tmp_path / "own"), settings, seed=1)
    assert (agreement.frames, agreement.failed) == (3, 0)
    assert agreement.force_max_meV_per_A < 1e-3
    assert len(computed) == 3
    store = LabelStore(tmp_path / "store", xtb.level)
    earlier = had[7].copy()
    earlier.info |= {"energy": -1.0, "level": store.level, "origin": "md"}
    store.add([earlier])
    keep(found, agreement, store, "trial")
    kept = store.find([frame.info["key"] for frame in had])
    assert len(kept) == 20
    assert kept[had[0].info["key"]].info["origin"] == (
        "imported from set.xyz, verified on 3 frames"
    )
    assert kept[had[7].info["key"]].info["energy"] == -1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # 1 Ha = 27.2114 eV, 1 bohr = 0.529177 Å (CODATA 2018)
        (
            {"forces": lambda f: f / 27.2114 * 0.529177},
            r"forces are 0.01944\d times .* forces_unit: \[Ha, bohr\] would fit",
        ),
        ({"forces": lambda f: f / 27.2114}, r"0.0367\d+ times .* forces_unit: \[Ha, A\] would fit"),
        (
            {"forces": lambda f: f * 23.0605},
            r"forces are 23.06\d* times .* forces_unit: \[kcal/mol, A\] would fit",
        ),
        ({"forces": lambda f: -f}, "forces are -1 times .* gradients"),
        ({"forces": lambda f: 1.5 * f}, "1.5 times .* no ratio of two units"),
        ({"forces": lambda f: f[::-1]}, "correlation .* another level of theory"),
        ({"energy": lambda e, _n: e / 27.2114}, "energy_unit: Ha would fit"),
        (
            {"energy": lambda e, n: e + 0.2 * n},
            r"off by a constant of each composition, on average \+200 meV/atom",
        ),
        ({"energy": lambda e, _n: e * 1.003}, "energies are off by"),
    ],
)
def test_what_does_not_agree_stops_with_the_numbers_and_what_they_suggest(
    tmp_path, had, xtb, change, words
):
    settings = SeedSettings(**FILES)
    wrong = imported.SortedOut(frames=changed(had, **change), read=20)
    with pytest.raises(InputError, match=words) as stopped:
        verify(wrong, labeller(xtb, tmp_path / "own"), settings, seed=1)
    assert "5 frames computed again: forces differ by up to" in str(stopped.value)
    assert "Nothing was stored" in str(stopped.value)


def test_another_unit_of_the_layout_is_told_in_that_unit(had):
    read_as_kcal = changed(had, forces=lambda f: f * 0.0433641)  # eV in kcal/mol
    layout = DatasetLayout(energy_unit="eV", forces_unit=("kcal/mol", "A"))
    words = fault(compare(read_as_kcal, had, SeedSettings(**FILES)), layout)
    assert "read in kcal/mol/A; forces_unit: [eV, A] would fit" in words


def test_frames_that_the_reference_cannot_label_verify_nothing(had):
    agreement = compare(had[:2], [Atoms("OH2")] * 2, SeedSettings(**FILES))
    assert not agreement.passed
    assert fault(agreement, DatasetLayout()) == "none of 2 frames could be computed again"


def test_of_each_file_and_structure_one_is_computed_again(had):
    had[3].info["origin"] = "imported from other.xyz"
    chosen = drawn(had, number=1, seed=1)
    assert {frame.info["origin"] for frame in chosen} == {
        "imported from set.xyz",
        "imported from other.xyz",
    }
    assert len(drawn(had, number=6, seed=1)) == 6


@pytest.mark.parametrize(
    ("number", "expected"), [(20, (10, 5, 5)), (14, (4, 5, 5)), (11, (1, 5, 5))]
)
def test_the_split_is_that_of_the_seed_and_what_is_more_is_learned(rattled, number, expected):
    frames = rattled(number)
    for frame in frames:
        frame.info |= {"origin": "imported from set.xyz", "key": structure_key(frame), "energy": 0}
    settings = SeedSettings(**FILES)
    parts = imported.split(frames, ["water"], settings, {"water": 3})
    splits = [frame.info["split"] for frame in parts]
    assert tuple(splits.count(part) for part in ("train", "validation", "test")) == expected
    assert all("energy" not in frame.info and imported.is_imported(frame) for frame in parts)
    again = imported.split(frames, ["water"], settings, {"water": 3})
    assert [f.info["key"] for f in again] == [f.info["key"] for f in parts]
    other = imported.split(frames, ["water"], settings, {"water": 4})
    assert [f.info["key"] for f in other] != [f.info["key"] for f in parts]


def test_too_few_labels_need_further_ones(rattled):
    frames = rattled(10)
    for frame in frames:
        frame.info |= {"origin": "imported from set.xyz", "key": structure_key(frame)}
    with pytest.raises(InputError, match=r"10 frames of structure water: expected at least 11"):
        imported.split(frames, ["water"], SeedSettings(**FILES), {"water": 3})
    assert (
        len(imported.split(frames, ["water"], SeedSettings(**FILES, further=True), {"water": 3}))
        == 10
    )


def test_a_layouts_defaults_are_not_taken_for_what_the_user_has_set():
    """Partial charges that add up to another charge are refused only where none was set."""
    settings = Settings(seed_labels={"from": ["a.xyz"], "layout": {"energy_unit": "Ha"}})
    again = Settings(**settings.model_dump(mode="json")).seed_labels
    assert again == settings.seed_labels
    assert again.layout.model_fields_set == {"energy_unit"}


def test_labels_of_another_level_never_reach_the_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = []
    for seed in range(12):
        atoms = molecule("CH3OH")
        atoms.rattle(0.02, seed=seed)
        frame = Atoms(atoms.numbers, positions=atoms.positions)
        frame.info["REF_energy"] = -1.0 - 0.001 * seed  # relative to something
        frame.arrays["REF_forces"] = np.zeros((6, 3))
        written.append(frame)
    write("theirs.xyz", written, format="extxyz")
    labels = {"from": ["theirs.xyz"], "level": "theirs"}
    campaign = fabricated_campaign(tmp_path, seed_labels=labels)
    reference = make_reference(XtbReference(backend="xtb"))
    store = LabelStore(tmp_path / "store", reference.level)
    monkeypatch.setattr(reference, "label", lambda *_: pytest.fail("a frame was computed"))
    frames, summary = take_over(
        campaign, "methanol", reference, store, cores=1, seed=1, stop=lambda: False
    )
    assert (len(frames), summary.used, summary.agreement) == (12, {"methanol": 12}, None)
    assert "of a level of their own: the model is only pre-trained on them" in summary.words
    assert not store.known([frame.info["key"] for frame in frames])
    assert not campaign.systems["methanol"].settings.seed_labels.imports_labels


@pytest.mark.parametrize(
    ("pretraining", "key"), [({"enabled": False}, "enabled"), ({"start": "m.model"}, "start")]
)
def test_labels_of_another_level_need_pre_training(pretraining, key):
    labels = {"from": ["a.xyz"], "level": "theirs"}
    with pytest.raises(ValueError, match=f"level = 'theirs'.*pretraining.{key}"):
        Settings(seed_labels=labels, pretraining=pretraining)
