"""Drift of latent features; parity tables."""

import numpy as np
import pytest
from ase.build import molecule

from halcyon.errors import InputError
from halcyon.models import drift, mace, parity


def cloud(n, *, seed, shift=0.0):
    """Gaussian points in a plane of a space of ten dimensions."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(10, 2)))[0].T
    return (np.random.default_rng(seed).normal(size=(n, 2)) * [3.0, 0.5] + shift) @ axes


def test_the_same_cloud_has_not_moved_and_is_gaussian():
    found = drift.compared({"C": cloud(4000, seed=1)}, {"C": cloud(4000, seed=2)})["C"]
    assert found.axes == 2
    assert found.shift < 0.05
    assert found.kurtosis_known == pytest.approx(1, abs=0.1)
    assert found.kurtosis_new == pytest.approx(1, abs=0.1)


def test_a_shift_is_counted_in_standard_deviations():
    # By a standard deviation on each of the two axes.
    moved = cloud(4000, seed=2, shift=np.array([3.0, 0.5]))
    found = drift.compared({"C": cloud(4000, seed=1)}, {"C": moved})["C"]
    assert found.shift == pytest.approx(1, abs=0.06)


def test_tails_and_clusters_are_no_gaussians():
    rng = np.random.default_rng(3)
    heavy = rng.standard_t(5, size=(4000, 3))
    clusters = rng.normal(size=(4000, 1)) * 0.1 + rng.choice([-1, 1], size=(4000, 1))
    assert drift.mardia_kurtosis(heavy) > 1.3
    assert drift.mardia_kurtosis(clusters) < 0.5
    # Known exactly: two points of equal weight have (x² = variance)² / 3.
    assert drift.mardia_kurtosis(np.array([[-1.0], [1.0], [-1.0], [1.0]])) == pytest.approx(1 / 3)


def test_too_few_atoms_or_no_variation_is_no_number():
    few = drift.compared({"C": cloud(3, seed=1)}, {"C": cloud(100, seed=2)})["C"]
    still = drift.compared({"C": np.ones((50, 4))}, {"C": cloud(50, seed=1)[:, :4]})["C"]
    for found in (few, still):
        assert (found.axes, found.shift, found.kurtosis_new) == (0, None, None)
    assert drift.compared({"C": cloud(9, seed=1)}, {"O": cloud(9, seed=1)}) == {}


def test_atoms_are_gathered_by_class():
    frames = [molecule("H2O"), molecule("H2O")]
    for atoms in frames:
        atoms.info["structure"] = "water"
    said = [np.arange(6).reshape(3, 2), np.arange(6, 12).reshape(3, 2)]
    found = drift.by_class(frames, said, {"water": ["O", "H", "H"]})
    assert found["O"].tolist() == [[0, 1], [6, 7]]
    assert found["H"].tolist() == [[2, 3], [4, 5], [8, 9], [10, 11]]


def labelled(n):
    frames = [molecule("H2O") for _ in range(n)]
    for i, atoms in enumerate(frames):
        atoms.info["energy"] = -470.0 + 0.3 * i
        atoms.arrays["forces"] = np.full((3, 3), float(i))
    energies = np.array([atoms.info["energy"] + 0.006 for atoms in frames])
    return frames, mace.Predictions(energies, [a.arrays["forces"] for a in frames], [], [])


def test_parity_survives_the_disk(tmp_path):
    parity.write(tmp_path / "parity.parquet", *labelled(3))
    found = parity.read(tmp_path / "parity.parquet")
    energy, force = found["energy"], found["force"]
    assert energy["reference"].tolist() == pytest.approx([-0.1, 0.0, 0.1], abs=1e-6)
    # Half a millielectronvolt shows beside a total of hundreds of electronvolts.
    assert energy["predicted"] - energy["reference"] == pytest.approx([0.002] * 3, abs=1e-5)
    assert force["element"].tolist() == [8] * 3 + [1] * 6 + [8] * 3 + [1] * 6 + [8] * 3 + [1] * 6
    assert force["reference"].tolist() == [0.0] * 9 + [1.0] * 9 + [2.0] * 9


def test_energies_of_each_composition_are_counted_from_its_own_mean(tmp_path):
    """H2 and O2 are a hundred eV per atom apart: one zero would hide every error."""
    frames = []
    for name, energies in (("H2", [-26.0, -26.2]), ("O2", [-214.0, -214.4, -214.8])):
        for energy in energies:
            frame = molecule(name)
            frame.info["energy"] = energy
            frame.arrays["forces"] = np.zeros((2, 3))
            frames.append(frame)
    said = mace.Predictions(
        np.array([frame.info["energy"] + 0.01 for frame in frames]),
        [np.zeros((2, 3))] * 5,
        [],
        [],
    )
    parity.write(tmp_path / "parity.parquet", frames, said)
    table = parity.read(tmp_path / "parity.parquet")["energy"]
    expected = [0.05, -0.05, 0.2, 0.0, -0.2]
    np.testing.assert_allclose(table["reference"], expected, atol=1e-6)
    np.testing.assert_allclose(table["predicted"], np.add(expected, 0.005), atol=1e-6)


def test_parity_is_thinned_and_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "MAX_POINTS", 20)
    for name in ("a", "b"):
        parity.write(tmp_path / name, *labelled(30))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = parity.read(tmp_path / "a")
    assert len(found["force"]["reference"]) == len(found["energy"]["predicted"]) == 20


def test_another_table_is_no_parity_table(tmp_path):
    (tmp_path / "text").write_text("no table")
    with pytest.raises(InputError, match="not a readable Parquet"):
        parity.read(tmp_path / "text")
