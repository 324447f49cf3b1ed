"""The domain of a model, from labelled frames and the teacher's.

    from halcyon.config import DomainSettings
    from halcyon.models.domains import find_domain
    from halcyon.models.mace import load

    labels = {"train": train, "validation": frames, "test": held_out}
    domain = find_domain(load("m.model"), labels, [], classes=classes,
                         bonded={"water": [(0, 1), (0, 2)]}, settings=DomainSettings(), seed=1)

Not for: what a domain is, or its statistics (see `halcyon.domain`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from ase import Atoms

from halcyon.config import AccuracySettings, DomainSettings
from halcyon.domain.bonds import mean_lengths
from halcyon.domain.calibration import DEFAULT_ACCURACY, fit_domain
from halcyon.domain.intervals import Domain
from halcyon.domain.samples import Sample, Samples
from halcyon.labels.free_atoms import SPLIT, free_atoms
from halcyon.models import mace
from halcyon.models.batched import BatchedMace


def find_domain(
    model: torch.nn.Module,
    labels: Mapping[str, Sequence[Atoms]],
    teacher: Sequence[Atoms],
    *,
    classes: dict[str, list[str]],
    bonded: Mapping[str, Sequence[tuple[int, int]]],
    settings: DomainSettings,
    seed: int,
    committee: Sequence[BatchedMace] = (),
    accuracy: AccuracySettings = DEFAULT_ACCURACY,
) -> Domain:
    """Evaluate a model on frames, and fit its domain to what it predicts.

    Args:
        model: as `mace.load` returns it.
        labels: labelled frames of the sets `train` (the model has learned them), `validation`
            (they set margin and thresholds) and `test` (exceedances are measured on them). Frames
            that earlier generations visited also say what errors to expect, as their models
            predicted them. Where there is a set `free_atoms`, not empty, atoms that have left all
            others are inside the domain.
        teacher: the teacher's frames that the model was pre-trained on; none without
            pre-training.
        classes: class of every atom, per structure.
        bonded: bonded pairs, per structure whose bonds are watched.
        settings: alpha, how atoms are classified, signals.
        seed: of bootstraps and clusters.
        committee: the other models of the signal `committee`.
        accuracy: what force error counts as unreliable.

    Raises:
        InputError: no held-out frames, or a structure or class without training frames.
    """
    bonds = mean_lengths(labels["train"], bonded)

    def sample(frames: Sequence[Atoms]) -> Sample:
        return Sample.of(frames, mace.evaluate(model, frames))

    domain = fit_domain(
        Samples(
            train=sample(labels["train"]),
            teacher=sample(teacher),
            held_out=sample(labels["validation"]),
            check=sample(labels["test"]),
            # Of one whose label failed it is known as well that no force acts on it.
            free=descriptors_of_free_atoms(model, labels["train"] if labels.get(SPLIT) else []),
            earlier=[
                atoms
                for atoms in (*labels["train"], *labels["validation"])
                if "model_forces" in atoms.arrays
            ],
        ),
        classes=classes,
        bonds=bonds,
        settings=settings,
        seed=seed,
        committee=committee,
        accuracy=accuracy,
    )
    known = {atoms.info["structure"] for atoms in labels["train"]}
    return replace(domain, classes={k: v for k, v in domain.classes.items() if k in known})


def descriptors_of_free_atoms(
    model: torch.nn.Module, frames: Iterable[Atoms]
) -> dict[str, np.ndarray]:
    """What a model makes of an atom without neighbours, of each element of some frames.

    Args:
        model: as `mace.load` returns it.
        frames: any number.

    Returns:
        By symbol, shape (D,).
    """
    elements = sorted({int(number) for atoms in frames for number in atoms.numbers})
    alone = free_atoms(elements)
    every = mace.evaluate(model, alone).descriptors
    return {str(f.symbols[0]): of[0] for f, of in zip(alone, every, strict=True)}
