"""Fixtures shared by unit and integration tests."""

import shutil
import sys
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from toy_campaign import toy  # noqa: F401 - a fixture for all

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.append(str(ROOT / "benchmarks"))


def pytest_collection_modifyitems(items) -> None:
    """Skip, and name, all that needs CP2K where there is none; nothing else decides about it."""
    if shutil.which("cp2k.psmp") is None:
        for item in items:
            if item.get_closest_marker("cp2k"):
                item.add_marker(pytest.mark.skip(reason="no cp2k.psmp here"))


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


@pytest.fixture(scope="module")
def cp2k_schema_read_once():
    """Reading CP2K's schema takes half a second, twice per level: too long for unit tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ET, "parse", cache(ET.parse))
        yield
