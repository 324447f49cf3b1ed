"""The domain of a model, from labelled frames and the teacher's.

    from halcyon.config import DomainSettings
    from halcyon.models.domains import find_domain
    from halcyon.models.mace import load

    labels = {"train": train, "validation": frames, "test": held_out}
    domain = find_domain(load("m.model"), labels, [], classes=classes,
                         bonded={"water": [(0, 1), (0, 2)]}, settings=DomainSettings(), seed=1)

Not for: what a domain is, or its statistics (see `halcyon.domain`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from ase import Atoms

from halcyon.config import AccuracySettings, DomainSettings
from halcyon.domain.bonds import mean_lengths
from halcyon.domain.calibration import DEFAULT_ACCURACY, fit_domain
from halcyon.domain.intervals import Domain
from halcyon.domain.samples import Sample, Samples
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
            predicted them.
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
