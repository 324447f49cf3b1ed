"""Near pairs are searched for: the failures are those that a look at all pairs finds."""

import numpy as np
import pytest
import torch
from ase import Atoms

from halcyon.domain import contacts
from halcyon.domain.contacts import Limits, near
from halcyon.domain.failures import FailureMonitor

CPU = torch.device("cpu")
WATERS, STEPS = 27, 5
CELLS = {
    "none": None,
    "cubic": 9.3 * np.eye(3),
    "skewed": np.array([[9.3, 0, 0], [5.0, 9.3, 0], [-4.0, 3.0, 9.3]]),
    "thin": np.diag([27.0, 27.0, 2.1]),
    "left-handed": 9.3 * np.eye(3)[[1, 0, 2]],
}
BONDS = {"water": [(3 * i, 3 * i + k, 0.97) for i in range(WATERS) for k in (1, 2)]}


def waters(cell, random):
    """Molecules at random places of a grid, a few of them near each other."""
    size = 9.3 * np.eye(3) if cell is None else cell
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) / 3
    places = grid @ size + random.normal(scale=0.1, size=(WATERS, 3))
    water = np.array([[0, 0, 0], [0.97, 0, 0], [-0.24, 0.94, 0]])
    atoms = Atoms("OH2" * WATERS, positions=(places[:, None] + water).reshape(-1, 3))
    atoms.info["structure"] = "water"
    if cell is not None:
        atoms.set_cell(cell)
        atoms.pbc = True
    return atoms


def motion(starts, random, scale):
    """Positions of all atoms, shape (K, N, 3): molecules swing, and so do atoms."""
    at_start = np.concatenate([atoms.positions for atoms in starts])
    swing = random.normal(scale=scale / 4, size=at_start.shape)
    swing += random.normal(scale=scale, size=swing.shape)[np.arange(len(swing)) // 3]
    times = np.linspace(-1, 1, STEPS)[:, None, None]
    return at_start + swing * times


def both(monkeypatch, starts, positions, *, kind, cells=None):
    """What a search finds, and what a look at all pairs finds, with their rooms."""
    answers = []
    for most in (0, 10**6):
        monkeypatch.setattr("halcyon.domain.failures.ALL_PAIRS_MAX_ATOMS", most)
        monitor = FailureMonitor(
            starts,
            BONDS,
            kind=kind,
            bond_stretch_A=0.5,
            min_distance_A=0.5,
            device=CPU,
            n_steps=len(positions),
        )
        flat = torch.tensor(positions.reshape(-1, 3))
        state = flat, torch.zeros(len(positions) * len(starts)), torch.zeros_like(flat), cells
        answers.append((monitor.check(*state), float(monitor.room(*state))))
    return answers


def compare(monkeypatch, starts, positions, *, kind, cells=None):
    """The failures, the same either way; a search's room lets none escape."""
    (failures, room), (expected, room_of_all) = both(
        monkeypatch, starts, positions, kind=kind, cells=cells
    )
    assert failures == expected
    assert (room > 0) == (not expected)
    if expected:
        assert not room_of_all > 0
    return expected


@pytest.mark.parametrize("kind", ["molecule", "liquid", "reactive"])
@pytest.mark.parametrize("cell", CELLS)
def test_failures_are_those_of_all_pairs(monkeypatch, cell, kind):
    random = np.random.default_rng(4)
    reasons = []
    for scale in (0.02, 0.1, 0.4, 1.2):
        for _ in range(3):
            starts = [waters(CELLS[cell], random) for _ in range(2)]
            failures = compare(monkeypatch, starts, motion(starts, random, scale), kind=kind)
            reasons += failures.values()
    assert {"atoms overlap", "bond broken"} & set(reasons)
    assert "atoms overlap" in reasons or kind == "molecule"


@pytest.mark.parametrize("cell", CELLS)
def test_atoms_meet_at_one_step_alone(monkeypatch, cell):
    random = np.random.default_rng(5)
    starts = [waters(CELLS[cell], random)]
    positions = np.repeat(starts[0].positions[None], STEPS, axis=0)
    before = compare(monkeypatch, starts, positions, kind="liquid")
    assert bool(before) == (cell == "thin")  # where molecules meet each other's images
    positions[-1, 3:6] += 0.8 * (positions[-1, 0] - positions[-1, 3])
    failures = compare(monkeypatch, starts, positions, kind="liquid")
    assert STEPS - 1 in failures


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5, 1e8, 1e20, 1e200])
def test_atoms_that_blew_up(monkeypatch, cell, value):
    random = np.random.default_rng(6)
    starts = [waters(CELLS[cell], random) for _ in range(2)]
    for kind in ("liquid", "reactive"):
        positions = motion(starts, random, 0.02)
        positions[3:, 10] = value
        positions[4, 20:24] = [-value, 0.0, 1.0]
        compare(monkeypatch, starts, positions, kind=kind)


@pytest.mark.parametrize("cell", CELLS)
def test_atoms_on_top_of_each_other(monkeypatch, cell):
    random = np.random.default_rng(7)
    starts = [waters(CELLS[cell], random)]
    positions = motion(starts, random, 0.02)
    positions[2, 6:9] = positions[2, 0:3]
    positions[3] = 1.0
    failures = compare(monkeypatch, starts, positions, kind="liquid")
    assert failures[2] == "atoms overlap"
    assert failures[3] == "bond broken"


@pytest.mark.parametrize("shrink", [0.0, 0.02, 0.1, 0.5, 0.9999])
def test_cells_that_move_and_atoms_that_are_wrapped(monkeypatch, shrink):
    random = np.random.default_rng(8)
    starts = [waters(CELLS["skewed"], random) for _ in range(2)]
    reasons = []
    for scale in (0.02, 0.3):
        rows = np.stack([atoms.cell.array for atoms in starts])
        turned = [rows * (1 - shrink * step / (STEPS - 1)) for step in range(STEPS)]
        positions = motion(starts, random, scale)
        fractional = positions.reshape(STEPS, 2, -1, 3) @ np.linalg.inv(rows)
        fractional[3:] %= 1.0  # the integrator wraps now and then
        moved = (fractional @ np.array(turned)).reshape(STEPS, -1, 3)
        cells = torch.tensor(np.concatenate(turned)).mT
        for kind in ("liquid", "reactive"):
            reasons += compare(monkeypatch, starts, moved, kind=kind, cells=cells).values()
    assert reasons or shrink < 0.02


@pytest.mark.parametrize("when", range(STEPS))
def test_atoms_meet_an_image_because_the_cell_has_shrunk(monkeypatch, when):
    atoms = Atoms("He2", positions=[[0.2, 5, 5], [8.8, 5, 5]], cell=[10.0] * 3, pbc=True)
    atoms.info["structure"] = "helium"
    edges = np.full(STEPS, 10.0)
    edges[when] = 9.0
    cells = torch.tensor(edges[:, None, None] * np.eye(3))
    positions = np.repeat(atoms.positions[None], STEPS, axis=0)
    failures = compare(monkeypatch, [atoms], positions, kind="reactive", cells=cells)
    assert failures == {when: "atoms overlap"}


def test_a_cell_that_is_no_cell(monkeypatch):
    random = np.random.default_rng(9)
    starts = [waters(CELLS["cubic"], random)]
    positions = motion(starts, random, 0.02)
    cells = torch.tensor(np.repeat(CELLS["cubic"][None], STEPS, axis=0))
    for value in (np.nan, np.inf, 0.0):
        cells[2] = value
        (failures, room), (expected, room_of_all) = both(
            monkeypatch, starts, positions, kind="liquid", cells=cells
        )
        assert failures == expected
        assert not room > 0
        assert not room_of_all > 0


def test_structures_of_several_sizes(monkeypatch):
    random = np.random.default_rng(10)
    for _ in range(8):
        large = waters(None, random)
        small = large[:9]
        small.info["structure"] = "small"
        lone = Atoms("He", info={"structure": "helium"})
        starts = [small, large, lone]
        compare(monkeypatch, starts, motion(starts, random, 0.2), kind="liquid")


def test_near_pairs_are_few_and_complete():
    random = np.random.default_rng(11)
    box = 20.0
    positions = random.uniform(0, box, size=(600, 3))
    molecule = np.arange(600) // 2
    limits = Limits(molecule, within_A=0.5, between_A=1.2)
    atoms = Atoms("H600", positions=positions, cell=[box] * 3, pbc=True)
    distances = atoms.get_all_distances(mic=True)
    least = np.where(molecule[:, None] == molecule, 0.5, 1.2)
    reach = random.uniform(0, 0.2, size=600)
    for ways in (np.zeros(600), reach):
        expected = np.argwhere(np.triu(distances < least + ways + ways[:, None], k=1))
        pairs = near(positions, atoms.cell.array, limits, reach=ways)
        assert sorted(map(tuple, pairs.T)) == sorted(map(tuple, expected))
        assert len(expected) > 50


def test_all_pairs_of_a_large_box_are_never_listed(monkeypatch):
    random = np.random.default_rng(12)
    starts = [waters(CELLS["cubic"], random)]
    monkeypatch.setattr(contacts.np, "triu_indices", None)
    monitor = FailureMonitor(
        starts, BONDS, kind="liquid", bond_stretch_A=0.5, min_distance_A=0.5, device=CPU, n_steps=5
    )
    positions = torch.tensor(motion(starts, random, 0.02).reshape(-1, 3))
    state = positions, torch.zeros(STEPS), torch.zeros_like(positions)
    assert float(monitor.room(*state)) > 0
    assert monitor.check(*state) == {}
