"""Distances of pairs of atoms, by which three stages tell frames apart."""

import numpy as np
import pytest
from ase import Atoms
from scipy.spatial.transform import Rotation

from halcyon.systems.fingerprint import pair_distances, rms_difference, sorted_pair_distances


def test_each_pair_once_in_the_order_of_atoms(water):
    expected = [water.get_distance(*pair) for pair in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(pair_distances(water), expected)


def test_the_shortest_way_over_boundaries():
    atoms = Atoms("ArAr", [[0.5, 0, 0], [9.5, 0, 0]], cell=[10, 10, 10])
    assert pair_distances(atoms) == pytest.approx([9.0])
    atoms.pbc = True
    assert pair_distances(atoms) == pytest.approx([1.0])


def test_neither_moving_nor_turning_changes_them(water):
    moved = water.copy()
    moved.positions = Rotation.random(rng=3).apply(water.positions) + np.arange(3)
    np.testing.assert_allclose(pair_distances(moved), pair_distances(water))


def test_sorted_ones_do_not_heed_the_order_of_atoms(rattled):
    (frame,) = rattled(1)
    turned = frame[[2, 0, 1]]
    assert not np.allclose(pair_distances(turned), pair_distances(frame))
    np.testing.assert_allclose(sorted_pair_distances(turned), sorted_pair_distances(frame))


def test_sorting_is_within_pairs_of_elements():
    # The H-H distance is the shortest, and comes first because H is the lightest element.
    atoms = Atoms("OHH", [[0, 0, 0], [3, 0, 0], [0, 2, 0]])
    assert sorted_pair_distances(atoms) == pytest.approx([13**0.5, 2, 3])


def test_the_difference_is_a_root_mean_square_over_pairs(water):
    distances = pair_distances(water)
    others = np.stack([distances, distances + np.array([0.3, 0, 0]), distances - 0.1])
    assert rms_difference(distances, others) == pytest.approx([0, 0.3 / 3**0.5, 0.1])
    assert rms_difference(distances, others[1]) == pytest.approx(0.3 / 3**0.5)
