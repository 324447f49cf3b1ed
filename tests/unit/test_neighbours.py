"""Compiled neighbours are those that ASE's neighbour list finds."""

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

from halcyon.models.fast.neighbours import MOST_IMAGES, few_images, neighbours

R_MAX = 5.0  # Å
CELLS = {
    "wide": np.diag([13.0, 14.0, 15.0]),
    "narrower than the cutoff": np.diag([4.0, 7.2, 12.0]),
    "skewed": np.array([[7.2, 0.0, 0.0], [5.0, 6.0, 0.0], [-4.0, 3.0, 7.0]]),
    "left-handed": np.array([[0.0, 7.2, 0.0], [6.0, 1.0, 0.0], [0.0, 0.0, 8.0]]),
    "none": np.zeros((3, 3)),
}


def scattered(n_atoms, cell, seed):
    """Atoms in and around a cell, or in a box of 8 Å."""
    places = np.random.default_rng(seed).uniform(-2.0, 3.0, (n_atoms, 3))
    return places @ cell if cell.any() else 2.0 * places


def by_ase(frames, cells):
    """Receiver, sender and vector of each edge, atoms counted through all frames."""
    edges, begin = [], 0
    for positions, cell in zip(frames, cells, strict=True):
        atoms = Atoms(f"H{len(positions)}", positions, cell=cell, pbc=bool(cell.any()))
        receiver, sender, vectors = neighbor_list("ijD", atoms, R_MAX)
        edges.append(np.column_stack([receiver + begin, sender + begin, -vectors]))
        begin += len(positions)
    return np.concatenate(edges)


def by_loops(frames, cells, place, dtype=np.float64):
    bounds = np.cumsum([0, *map(len, frames)])
    positions = np.concatenate(frames).astype(dtype)
    vectors, sender = neighbours(positions, np.asarray(cells, dtype), (bounds, place), R_MAX)
    assert vectors.dtype == dtype
    width = len(sender) // len(place)
    assert width * len(place) == len(sender) == vectors.shape[1]
    receiver = np.repeat(np.arange(len(place)), width)
    filled = np.linalg.norm(vectors, axis=0) < R_MAX
    assert filled.reshape(-1, width).sum(1).max() in (width, 0)  # not wider than needed
    assert (vectors[:, ~filled] == 2 * R_MAX).all()
    assert (sender == receiver)[~filled].all()
    back = np.argsort(place)
    return np.column_stack([back[receiver], back[sender], vectors.T])[filled]


def assert_same(found, expected, tolerance_A=1e-9):
    assert len(found) == len(expected)
    digits = 3  # rounding must not change the order
    found, expected = (
        edges[np.lexsort(np.round(edges, digits).T[::-1])] for edges in (found, expected)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance_A)


@pytest.mark.parametrize("name", CELLS)
def test_neighbours_are_those_of_ase(name):
    frames = [scattered(n, CELLS[name], seed) for seed, n in enumerate((20, 1, 7))]
    cells = [CELLS[name]] * 3
    place = np.random.default_rng(5).permutation(28)
    expected = by_ase(frames, cells)
    assert len(expected) > 28
    assert_same(by_loops(frames, cells, place), expected)
    assert_same(by_loops(frames, cells, place, np.float32), expected, 1e-5)


def test_more_neighbours_than_there_was_room_for_at_first():
    # 4 atoms, each with some 130 neighbours: four times what is first made room for.
    cell = np.diag([1.6, 1.6, 6.0])
    frames = [scattered(4, cell, 1)]
    expected = by_ase(frames, [cell])
    assert len(expected) > 4 * 100
    assert_same(by_loops(frames, [cell], np.arange(4)), expected)


def test_a_lone_atom_and_one_that_is_not_finite_have_no_neighbours():
    frames = [np.zeros((1, 3)), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, np.nan]]), np.eye(3)]
    cells = [np.zeros((3, 3))] * 3
    found = by_loops(frames, cells, np.arange(6))
    assert set(found[:, 0].astype(int)) == {3, 4, 5}
    assert len(by_loops(frames[:2], cells[:2], np.arange(3))) == 0


def test_which_cells_can_be_searched():
    assert few_images(np.array([CELLS["wide"], CELLS["skewed"]]), R_MAX)
    thinnest = R_MAX / (MOST_IMAGES + 0.5)
    assert few_images(np.diag([9.0, 9.0, 1.01 * thinnest])[None], R_MAX)
    assert not few_images(np.diag([9.0, 9.0, 0.99 * thinnest])[None], R_MAX)
    flat = np.array([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [9.0, 9.0, 0.0]])
    for bad in (flat, np.full((3, 3), np.nan), np.diag([9.0, np.inf, 9.0])):
        assert not few_images(np.array([CELLS["wide"], bad]), R_MAX)
