import numpy as np
import pytest
import torch
from ase import Atoms

from halcyon.domain.failures import FailureMonitor
from halcyon.domain.pairs import Pairs


def monitor(starts, bonds, kind="molecule"):
    return FailureMonitor(
        starts,
        bonds,
        kind=kind,
        bond_stretch_A=0.5,
        min_distance_A=0.5,
        device=torch.device("cpu"),
    )


def check(watch, frames, forces=0.0):
    """What the monitor finds; it must have been warned."""
    positions = torch.tensor(np.concatenate([frame.positions for frame in frames]))
    state = (positions, torch.zeros(len(frames)), torch.full_like(positions, forces))
    found = watch.check(*state)
    assert not found or not float(watch.room(*state)) > 0
    return found


@pytest.fixture
def waters(water):
    frames = []
    for _ in range(3):
        frame = water.copy()
        frame.info = dict(water.info)
        frames.append(frame)
    return frames


BONDS = {"water": [(0, 1, 0.97), (0, 2, 0.97)]}


def test_a_sound_batch_has_no_failures(waters):
    assert check(monitor(waters, BONDS), waters) == {}


@pytest.mark.parametrize("kind", ["molecule", "liquid", "reactive"])
def test_each_failure_is_found_in_its_replica(waters, kind):
    watch = monitor(waters, BONDS, kind)
    waters[0].positions[1] *= 3
    waters[1].positions[2] = waters[1].positions[1] + 0.1
    waters[2].positions[0] = np.nan
    found = check(watch, waters)
    assert found[2] == "values not finite"
    if kind == "reactive":
        assert found == {1: "atoms overlap", 2: "values not finite"}
    else:
        assert found[0] == "bond broken"
        assert found[1] in ("bond broken", "atoms overlap")


def test_infinite_forces_are_a_failure(waters):
    assert set(check(monitor(waters, BONDS), waters, forces=np.inf)) == {0, 1, 2}


def test_molecules_of_a_liquid_must_not_collide_and_bonds_cross_the_boundary():
    # Two H2 molecules; the second one's bond crosses the cell's boundary.
    atoms = Atoms("H4", positions=[[1, 1, 1], [1, 1, 1.74], [1, 1, 3.2], [1, 1, 3.94]])
    atoms.set_cell([8, 8, 8])
    atoms.pbc = True
    atoms.info = {"structure": "h2"}
    bonds = {"h2": [(0, 1, 0.74), (2, 3, 0.74)]}
    watch = monitor([atoms], bonds, "liquid")
    assert check(watch, [atoms]) == {}
    across = atoms.copy()
    across.positions[2:] += [3, 0, 4.4]
    across.wrap()
    assert np.ptp(across.positions[2:, 2]) > 7
    assert check(watch, [across]) == {}
    atoms.positions[2:] -= [0, 0, 0.4]
    assert check(watch, [atoms]) == {0: "atoms overlap"}
    assert check(monitor([atoms], bonds, "molecule"), [atoms]) == {}


@pytest.mark.parametrize("kind", ["molecule", "liquid", "reactive"])
def test_the_cheap_look_misses_nothing_and_seldom_errs(waters, kind):
    watch = monitor(waters, BONDS, kind)
    random = np.random.default_rng(3)
    warned = failed = 0
    start = np.concatenate([frame.positions for frame in waters])
    for _ in range(400):
        moved = torch.tensor(start + random.normal(scale=0.15, size=start.shape))
        state = (moved, torch.zeros(3), torch.zeros(9, 3))
        warned += not float(watch.room(*state)) > 0
        failed += bool(watch.check(*state))
    assert warned == failed
    assert 0 < failed < 400


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_that_is_not_finite_escapes_the_cheap_look(waters, value):
    lone = Atoms("He", info={"structure": "helium"})
    starts = [*waters, lone]
    watch = monitor(starts, BONDS)
    sound = (torch.tensor(np.concatenate([f.positions for f in starts])), torch.zeros(4))
    assert float(watch.room(*sound, torch.zeros(10, 3))) > 0
    for place, replica in ((4, 1), (9, 3)):
        for which in range(3):
            state = [*(tensor.clone() for tensor in sound), torch.zeros(10, 3)]
            state[which][replica if which == 1 else place] = value
            assert not float(watch.room(*state)) > 0
            assert watch.check(*state) == {replica: "values not finite"}


@pytest.mark.parametrize("shear", [0.0, 1.5])
def test_distances_are_those_to_the_nearest_image(shear):
    random = np.random.default_rng(0)
    starts = []
    for edge in (6.0, 7.0, None):
        atoms = Atoms("He12", positions=random.uniform(-9, 9, size=(12, 3)))
        if edge:
            atoms.set_cell([[edge, 0, 0], [shear, edge, 0], [0, 0, edge]])
            atoms.pbc = True
        starts.append(atoms)
    pairs = np.stack(np.triu_indices(12, k=1))
    for batch in (starts, starts[:1] * 2, starts[2:]):
        laid_out = Pairs(batch, [pairs] * len(batch), torch.device("cpu"))
        found = laid_out.squared(torch.tensor(np.concatenate([a.positions for a in batch])))
        expected = [a.get_all_distances(mic=bool(a.pbc.any()))[*pairs] for a in batch]
        expected = np.concatenate(expected)
        # Rounding finds the nearest image where it is near; further off it may miss it.
        near = (expected < 2.2) | ~np.repeat([a.pbc.any() for a in batch], pairs.shape[1])
        assert near.sum() >= 5
        np.testing.assert_allclose(found.sqrt().numpy()[near], expected[near], rtol=1e-9)
