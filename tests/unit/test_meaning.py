"""What the model card says of energies and states, from the labels."""

import pytest
from ase import Atoms
from ase.build import molecule

from halcyon.final.meaning import caveats


def labelled(*names, charge=0, multiplicity=1):
    frames = [molecule(name) if name in {"H2O", "CH4", "CO2"} else Atoms(name) for name in names]
    for frame in frames:
        frame.info = {"charge": charge, "multiplicity": multiplicity}
    return frames


@pytest.mark.parametrize(
    ("names", "words"),
    [
        # A single composition fixes one sum.
        (
            ["H2O", "H2O"],
            "all labels are of H2O, so that the elements' own energies",
        ),
        # Two compositions of three elements: rank 2.
        (["H2O", "CO2"], "labels are of H2O and CO2, which fix 2 of 3 element energies"),
        # Twice as many of the same fixes no more than one of them does.
        (["H2O", "H4O2"], "labels are of H2O and H4O2, which fix 1 of 2 element energies"),
        # H2O, CH4 and CO2 are independent: as many as there are elements.
        (["H2O", "CH4", "CO2"], "than H2O, CH4 and CO2: reactions among these were learned"),
        ([f"H{n}O" for n in range(2, 10)], "H2O, H3O, H4O, H5O, H6O, H7O and 2 others"),
    ],
)
def test_compositions(names, words):
    assert words in caveats(labelled(*names), bonds_hold=False)[0]


def test_bonds_and_states():
    frames = [*labelled("H2O"), *labelled("H2O", charge=1, multiplicity=2)]
    first, bonds, states = caveats(frames, bonds_hold=True)
    assert "H2O" in first
    assert "Dissociation energies and barriers mean nothing" in bonds
    assert "charge 0, multiplicity 1 and charge +1, multiplicity 2" in states
    assert len(caveats(frames, bonds_hold=False)) == 2
