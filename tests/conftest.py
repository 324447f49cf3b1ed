"""Fixtures shared by unit and integration tests."""

import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from toy_campaign import toy  # noqa: F401 - a fixture for all

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.append(str(ROOT / "benchmarks"))


@pytest.fixture
def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.info = {"charge": 0, "multiplicity": 1, "structure": "water"}
    return atoms


@pytest.fixture
def rattled(water):
    """Frames of water with displaced atoms, all different, labels made up."""

    def make(number: int) -> list[Atoms]:
        random = np.random.default_rng(5)
        frames = []
        for _ in range(number):
            frame = water.copy()
            frame.info = dict(water.info)
            frame.positions += random.normal(scale=0.05, size=(3, 3))
            frames.append(frame)
        return frames

    return make
