"""Labels that one has, against the reference's own labels of the same frames.

    from halcyon.config import DatasetLayout
    from halcyon.config.learning import SeedSettings
    from halcyon.labels.agreement import compare, fault

    agreement = compare(frames, frames, SeedSettings())
    fault(agreement, DatasetLayout())  # ""

Labels of one level agree absolutely: energies, too. Energies that all are off by a constant are
those of another program, of other pseudopotentials, or relative to atoms; the forces may agree, but
with the campaign's own labels the model would learn a step between two sets.

Not for: which frames are compared (`verifying`), or comparing labels with a second, cheaper method
(`sanity`).
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from ase import Atoms
from pydantic import Field

from halcyon.config import DatasetLayout
from halcyon.config.learning import SeedSettings
from halcyon.labels.published import ENERGY, LENGTH
from halcyon.verdict.forms import Form
from halcyon.wording import count, listed

SAME_FACTOR = 0.01
"""A ratio of forces or energies is taken for that of two units where it is so near."""
SAME_DIRECTION = 0.999
"""Least correlation of forces that are taken to differ by a factor only."""


class Agreement(Form):
    """How labels from files compare with those of the reference."""

    frames: int = Field(description="Frames that both have a label of.")
    failed: int = Field(description="Frames that the reference could not label.")
    force_rms_meV_per_A: float = Field(description="Root mean square difference of components.")
    force_max_meV_per_A: float = Field(description="Largest difference of a component.")
    force_allowed_meV_per_A: float = Field(description="Largest difference that is tolerated.")
    energy_mean_meV_per_atom: float = Field(description="Mean of file minus reference.")
    energy_max_meV_per_atom: float = Field(description="Largest difference, without its sign.")
    energy_allowed_meV_per_atom: float = Field(description="Largest difference tolerated.")
    shift_meV_per_atom: float = Field(
        description="Largest difference that is left of the energies once the mean difference of "
        "each composition is taken away; 0 where each has one frame."
    )
    comparable: int = Field(description="Frames whose composition has another one.")
    force_ratio: float | None = Field(
        description="Forces of the file over those of the reference, least squares; null: zero."
    )
    force_correlation: float | None = Field(description="Of the components, about zero.")
    energy_ratio: float | None = Field(description="Energies of the file over the reference's.")

    @property
    def passed(self) -> bool:
        """Whether all differences are within their tolerance."""
        return (
            self.frames > 0
            and self.force_max_meV_per_A <= self.force_allowed_meV_per_A
            and self.energy_max_meV_per_atom <= self.energy_allowed_meV_per_atom
        )

    @property
    def words(self) -> str:
        """The differences in a sentence."""
        if not self.frames:
            return f"none of {count(self.failed, 'frame')} could be computed again"
        words = (
            f"{count(self.frames, 'frame')} computed again: forces differ by up to "
            f"{self.force_max_meV_per_A:.3g} meV/Å (allowed {self.force_allowed_meV_per_A:g}), "
            f"energies by up to {self.energy_max_meV_per_atom:.3g} meV/atom (allowed "
            f"{self.energy_allowed_meV_per_atom:g})"
        )
        return f"{words}; {count(self.failed, 'frame')} got no label" if self.failed else words


def compare(
    labelled: Sequence[Atoms], computed: Sequence[Atoms], settings: SeedSettings
) -> Agreement:
    """Compare labels frame by frame.

    Args:
        labelled: from files, `info["energy"]` in eV, the array forces in eV/Å.
        computed: the same frames, labelled by the reference; those without a label lack both.
        settings: tolerances.
    """
    pairs = [(a, b) for a, b in zip(labelled, computed, strict=True) if "energy" in b.info]
    theirs, own = (
        np.concatenate([np.zeros(0), *(pair[i].arrays["forces"].ravel() for pair in pairs)])
        for i in (0, 1)
    )
    energies = np.array([[frame.info["energy"] for frame in pair] for pair in pairs]).reshape(-1, 2)
    atoms = np.array([len(pair[0]) for pair in pairs])
    off = 1000 * (energies[:, 0] - energies[:, 1]) / atoms
    formulas = np.array([pair[0].get_chemical_formula() for pair in pairs], dtype=object)
    left = off.copy()
    for formula in set(formulas):
        left[formulas == formula] -= off[formulas == formula].mean()
    several = sum(int((formulas == formula).sum() > 1) for formula in formulas)
    forces = 1000 * (theirs - own)
    square, norm = own @ own, np.sqrt((own @ own) * (theirs @ theirs))
    return Agreement(
        frames=len(pairs),
        failed=len(labelled) - len(pairs),
        force_rms_meV_per_A=float(np.sqrt(np.mean(forces**2))) if pairs else 0.0,
        force_max_meV_per_A=float(np.abs(forces).max(initial=0.0)),
        force_allowed_meV_per_A=settings.force_tolerance_meV_per_A,
        energy_mean_meV_per_atom=float(off.mean()) if pairs else 0.0,
        energy_max_meV_per_atom=float(np.abs(off).max(initial=0.0)),
        energy_allowed_meV_per_atom=settings.energy_tolerance_meV_per_atom,
        shift_meV_per_atom=float(np.abs(left).max(initial=0.0)),
        comparable=several,
        force_ratio=float(theirs @ own / square) if square else None,
        force_correlation=float(theirs @ own / norm) if norm else None,
        energy_ratio=float(energies[:, 0].sum() / energies[:, 1].sum())
        if pairs and energies[:, 1].sum()
        else None,
    )


def fault(agreement: Agreement, layout: DatasetLayout) -> str:
    """Say what is wrong with labels that do not agree, and what it suggests; empty if they agree.

    Args:
        agreement: from `compare`.
        layout: the units that the files were read with.
    """
    if agreement.passed:
        return ""
    suggestions = [_of_forces(agreement, layout), _of_energies(agreement, layout)]
    words = [words for words in suggestions if words]
    if not words and agreement.frames:
        words = ["the differences are no factor and no constant: it is another level of theory"]
    return ". ".join([agreement.words, *words])


def _of_forces(agreement: Agreement, layout: DatasetLayout) -> str:
    """What the forces suggest; empty where they agree."""
    ratio, correlation = agreement.force_ratio, agreement.force_correlation
    if agreement.force_max_meV_per_A <= agreement.force_allowed_meV_per_A:
        return ""
    if ratio is None or correlation is None or abs(correlation) < SAME_DIRECTION:
        if correlation is None:
            return ""
        return (
            f"the forces have a correlation of {correlation:.4f} with the reference's: another "
            "level of theory, or forces of other frames"
        )
    now_energy, now_length = layout.forces_unit or (layout.energy_unit, layout.positions_unit)
    now = ENERGY[now_energy] / LENGTH[now_length]
    fitting = [
        f"[{energy}, {length}]"
        for energy, length in product(ENERGY, LENGTH)
        if _near(ENERGY[energy] / LENGTH[length] / now * abs(ratio), 1.0)
    ]
    words = f"the forces are {ratio:.5g} times the reference's"
    if ratio < 0:
        words += ": the file has gradients, which are minus the forces; turn the sign in the file"
    if abs(abs(ratio) - 1) < SAME_FACTOR:
        return words if ratio < 0 else ""
    if fitting:
        unit = f"read in {now_energy}/{now_length}; forces_unit: {' or '.join(fitting)} would fit"
        return f"{words}: {unit}" if ratio > 0 else f"{words}; {unit}"
    return f"{words}, which is no ratio of two units"


def _of_energies(agreement: Agreement, layout: DatasetLayout) -> str:
    """What the energies suggest; empty where they agree."""
    ratio, mean = agreement.energy_ratio, agreement.energy_mean_meV_per_atom
    if agreement.energy_max_meV_per_atom <= agreement.energy_allowed_meV_per_atom or ratio is None:
        return ""
    now = ENERGY[layout.energy_unit]
    fitting = [
        unit
        for unit, value in ENERGY.items()
        if unit != layout.energy_unit and _near(value / now * ratio, 1.0)
    ]
    if fitting:
        return (
            f"the energies are {ratio:.5g} times the reference's: read in {layout.energy_unit}; "
            f"energy_unit: {listed(fitting, 'or')} would fit"
        )
    constant = agreement.shift_meV_per_atom <= agreement.energy_allowed_meV_per_atom
    if agreement.comparable and constant:
        return (
            f"the energies are off by a constant of each composition, on average {mean:+.5g} "
            "meV/atom: they are relative to atoms, or of a program, basis or pseudopotentials of "
            "its own, and so of another level (seed_labels.level: theirs)"
        )
    return f"the energies are off by {mean:+.5g} meV/atom on average"


def _near(value: float, expected: float) -> bool:
    return abs(value - expected) < SAME_FACTOR * abs(expected)
