import numpy as np
import pytest
import torch
from ase import Atoms

from halcyon.failures import FailureMonitor


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
    positions = torch.tensor(np.concatenate([frame.positions for frame in frames]))
    return watch.check(positions, torch.zeros(len(frames)), torch.full_like(positions, forces))


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
