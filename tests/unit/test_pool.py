"""Frames of a published set in place of a campaign's own."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from halcyon.campaign import stage
from halcyon.errors import InputError
from halcyon.frames import read_frames, structure_key
from halcyon.labels.pool import bonded_otherwise, bonds_in_words, frames_like, nearest


def shuffled(frame):
    """Another order of atoms, turned and shifted, and without the box."""
    random = np.random.default_rng(len(frame))
    mixed = Atoms(frame.numbers, positions=frame.positions)[random.permutation(len(frame))]
    mixed.rotate(random.uniform(0, 180), "xyz")
    mixed.positions += 3.0
    mixed.info = {"charge": 0, "multiplicity": 1}
    return mixed


def test_frames_like_have_the_order_and_the_box_of_the_start(water, rattled):
    water.set_cell([8.0] * 3)
    frames = rattled(3)
    others = [shuffled(frame) for frame in frames]
    charged = shuffled(frames[0])
    charged.info["charge"] = 1
    hydroxyl = frames[0][[0, 1]]
    hydroxyl.info = dict(charged.info, charge=0)
    peroxide = Atoms("OHO", positions=frames[0].positions)
    peroxide.info = dict(hydroxyl.info)
    alike = frames_like([*others, charged, hydroxyl, peroxide], water)
    assert len(alike) == 3
    for frame, other in zip(alike, others, strict=True):
        assert frame.numbers.tolist() == water.numbers.tolist()
        assert frame.info == water.info
        assert frame.cell.lengths().tolist() == [8.0] * 3
        place = other.numbers == 8
        np.testing.assert_array_equal(frame.positions[0], other.positions[place][0])
        np.testing.assert_array_equal(frame.positions[1:], other.positions[~place])


@pytest.fixture
def ethanol():
    """Ethanol in ASE's order of atoms, and its bonds, read off its geometry by hand."""
    atoms = molecule("CH3CH2OH")
    atoms.info = {"charge": 0, "multiplicity": 1, "structure": "ethanol"}
    names = [atoms.symbols[k] + str(k) for k in range(9)]
    assert names == ["C0", "C1", "O2", "H3", "H4", "H5", "H6", "H7", "H8"]
    return atoms, [(0, 1), (0, 2), (2, 3), (0, 4), (0, 5), (1, 6), (1, 7), (1, 8)]


def test_bonds_tell_which_atom_is_which(ethanol):
    start, bonds = ethanol
    ether = molecule("CH3OCH3")
    ether.info = dict(start.info)
    hot = start.copy()
    hot.set_distance(1, 6, 1.45, fix=0)
    pool = [shuffled(start), ether, shuffled(hot), shuffled(start)[::-1]]
    for frame in pool:
        frame.info |= {"charge": 0, "multiplicity": 1}
    alike = frames_like(pool, start, bonds)
    assert len(alike) == 3
    for frame in alike:
        assert (frame.numbers == start.numbers).all()
        assert frame.info == start.info
        lengths = [frame.get_distance(*pair) for pair in bonds]
        assert max(lengths) < 1.52, "the longest bond is C-C"
    assert [frame is ether for frame in bonded_otherwise(pool, start, bonds)] == [True]
    by_element = frames_like(pool, start)
    assert len(by_element) == 4
    lengths = [[frame.get_distance(*pair) for pair in bonds] for frame in by_element]
    assert np.max(lengths) > 2, "elements alone take one hydrogen for another"


def test_bonds_are_counted_in_words(ethanol):
    start, bonds = ethanol
    assert bonds_in_words(start.numbers, bonds) == "1 C-C, 5 C-H, 1 C-O, 1 H-O"
    assert bonds_in_words(start.numbers, []) == "none"


def test_a_box_of_molecules_is_matched_molecule_by_molecule(water):
    box = Atoms()
    for place in np.ndindex(2, 2, 2):
        single = water.copy()
        single.positions += 3.1 * np.array(place)
        box += single
    box.set_cell([6.2] * 3)
    box.pbc = True
    box.info = dict(water.info)
    bonds = [(3 * k, 3 * k + h) for k in range(8) for h in (1, 2)]
    mixed = box[np.random.default_rng(1).permutation(24)]
    mixed.info = dict(box.info)
    mixed.positions += [2.0, 0.5, 4.0]
    mixed.wrap()
    (ordered,) = frames_like([mixed], box, bonds)
    assert max(ordered.get_distance(*pair, mic=True) for pair in bonds) < 1.0


def test_the_most_similar_frame_that_is_not_taken(water, rattled):
    frames = rattled(6)
    pool = frames_like([shuffled(frame) for frame in frames], water)
    selected = [frames[4], frames[2], frames[4]]
    for frame in selected:
        frame.info |= {"score": 3.0, "split": "train", "atom": 2}
    taken = structure_key(pool[2])
    replacements = nearest(selected, {"water": pool}, {taken})
    keys = [structure_key(frame) for frame in pool]
    assert keys.index(replacements[0].info["key"]) == 4
    assert "0.000 Å away" in replacements[0].info["reason"]
    assert replacements[0].info["score"] == 3.0
    assert "atom" not in replacements[0].info
    assert all(frame.info["key"] == structure_key(frame) for frame in replacements)
    chosen = [keys.index(frame.info["key"]) for frame in replacements]
    assert len(set(chosen)) == 3
    assert 2 not in chosen
    assert len(nearest(selected * 3, {"water": pool}, {taken})) == 5, "the pool is used up"
    near = nearest(selected, {"water": pool}, {taken}, max_difference=1e-6)
    assert [keys.index(frame.info["key"]) for frame in near] == [4]
    with pytest.raises(InputError, match="water: not in the data set"):
        nearest(selected, {"water": []}, set())


@pytest.fixture
def seed(tmp_path, rattled, water):
    """Run the stage `seed` on a campaign whose labels are looked up."""
    import seed as program
    from halcyon.campaign.campaign import Campaign

    def run(number):
        published = []
        for frame in rattled(number):
            published.append(shuffled(frame))
            published[-1].calc = SinglePointCalculator(
                published[-1], energy=1.0, forces=frame.positions
            )
        write(tmp_path / "set.xyz", published)
        systems = tmp_path / "systems"
        systems.mkdir()
        structure = {"name": "water", "smiles": "O", "box_A": 8.0}
        forcefield = {"kind": "forcefield_xml", "files": ["x.xml"]}
        thing = {"name": "thing", "structures": [structure], "forcefield": forcefield}
        (systems / "thing.yaml").write_text(json.dumps(thing))
        content = {"campaign": "retro", "systems": ["thing"], "systems_folder": str(systems)}
        content |= {"results": str(tmp_path / "results")}
        content["reference"] = {"backend": "dataset", "files": [str(tmp_path / "set.xyz")]}
        content["seed_labels"] = {"train": 3, "validation": 5, "test": 5}
        campaign = Campaign.resolve(content, "retro.yaml")
        campaign.write()
        frame = water.copy()
        frame.info = dict(water.info, origin="md", temperature=300.0)
        from halcyon.frames import write_frames

        write_frames(tmp_path / "teacher.parquet", [frame])
        words = ["--campaign", str(campaign.file), "--system", "thing"]
        words += ["--frames", str(tmp_path / "teacher.parquet")]
        words += ["--selected", str(tmp_path / "selected.parquet")]
        options = stage.parser("")
        for name in ("frames", "imported", "selected"):
            options.add_argument(f"--{name}", type=type(tmp_path))
        program.main(stage.Job(options.parse_args(words)))
        return read_frames(tmp_path / "selected.parquet"), campaign

    return run


def test_the_seed_is_drawn_from_the_set_and_found_in_it(seed, tmp_path):
    frames, campaign = seed(20)
    assert len({frame.info["key"] for frame in frames}) == 13
    assert {frame.info["origin"] for frame in frames} == {"data set"}
    records = list(campaign.reference().label(frames, tmp_path, 1))
    assert [record.status for record in records] == ["ok"] * 13


def test_a_set_that_is_too_small_for_the_seed_is_told(seed):
    with pytest.raises(InputError, match="12 frames of water in the data set, expected 13"):
        seed(12)
