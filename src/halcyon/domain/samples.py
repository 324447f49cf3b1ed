"""Frames with what a model predicts for them: what a domain is made of.

    from halcyon.domain.samples import Sample, Samples
    from halcyon.models import mace

    sample = Sample.of(frames, mace.evaluate(model, frames))
    samples = Samples(train=sample, teacher=sample, held_out=sample, check=sample)

Not for: fitting a domain to them (see `calibration`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from ase import Atoms

from halcyon.domain.signals import Output
from halcyon.domain.states import State

FRAMES_AT_ONCE = 32
OUTLIERS = ("selected", "diverse")
"""Roles of frames that were labelled because they are unlike others."""
FEWEST_CALIBRATING = 5
"""With fewer held-out frames that are no outliers, outliers calibrate, too."""


class Predictions(Protocol):
    """What a model predicts for frames, see `halcyon.models.mace.Predictions`."""

    @property
    def node_energy(self) -> Sequence[np.ndarray]:
        """Per frame, shape (N,), eV."""

    @property
    def descriptors(self) -> Sequence[np.ndarray]:
        """Per frame, shape (N, D)."""

    @property
    def forces(self) -> Sequence[np.ndarray]:
        """Per frame, shape (N, 3), eV/Å."""


@dataclass(frozen=True)
class Sample:
    """Frames with what the model predicts for them.

    Attributes:
        frames: with `info["structure"]`.
        node_energy: per frame, shape (N,), eV.
        descriptors: per frame, shape (N, D).
        forces: per frame, shape (N, 3), eV/Å.
    """

    frames: Sequence[Atoms]
    node_energy: Sequence[np.ndarray]
    descriptors: Sequence[np.ndarray]
    forces: Sequence[np.ndarray]

    @classmethod
    def of(cls, frames: Sequence[Atoms], predictions: Predictions) -> "Sample":
        """Frames with what a model predicts for them, in their order."""
        return cls(frames, predictions.node_energy, predictions.descriptors, predictions.forces)

    def __getitem__(self, which: slice) -> "Sample":
        return Sample(*(values[which] for values in vars(self).values()))

    def take(self, numbers: Sequence[int]) -> "Sample":
        """The frames of these numbers."""
        return Sample(*([values[i] for i in numbers] for values in vars(self).values()))

    def described(self) -> Iterator[tuple[Atoms, np.ndarray]]:
        """Frames with their descriptors."""
        return zip(self.frames, self.descriptors, strict=True)

    def steps(
        self, device: torch.device, dtype: torch.dtype
    ) -> Iterator[tuple[Sequence[Atoms], State, Output]]:
        """The frames as steps of batches of equal periodicity: (frames, state, output)."""
        begin = 0
        for end in range(1, len(self.frames) + 1):
            last = end == len(self.frames)
            if (
                last
                or end - begin == FRAMES_AT_ONCE
                or (self.frames[end].pbc.all() != self.frames[begin].pbc.all())
            ):
                part, begin = self[begin:end], end
                output = {
                    name: torch.as_tensor(np.concatenate(list(values)), device=device)
                    for name, values in (
                        ("node_energy", part.node_energy),
                        ("descriptors", part.descriptors),
                        ("forces", part.forces),
                    )
                }
                yield part.frames, State.of(part.frames, device=device, dtype=dtype), output


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The frames that a domain is made of.

    Attributes:
        train: labelled frames that the model was trained on.
        teacher: the teacher's frames; none without pre-training.
        held_out: labelled frames not trained on: they set margin and thresholds.
        check: labelled frames used for nothing: exceedances are measured on them.
        earlier: labelled frames that earlier models visited, with what these predicted:
            `arrays` model_forces (N, 3), and distance_<signal> (N,) of some signals.
        free: descriptors of a free atom of each element by its symbol, shape (D,), where atoms
            that have left all others are inside the domain.
    """

    train: Sample
    teacher: Sample
    held_out: Sample
    check: Sample
    earlier: Sequence[Atoms] = ()
    free: Mapping[str, np.ndarray] = field(default_factory=dict)

    def without_outliers(self) -> "Samples":
        """Without held-out frames that are outliers, unless fewer than `FEWEST_CALIBRATING` stay.

        Margin and thresholds promise how seldom ordinary motion leaves the domain; frames that were
        chosen because they are far outside would open it.
        """
        ordinary = [i for i, f in enumerate(self.held_out.frames) if not is_outlier(f)]
        if len(ordinary) < FEWEST_CALIBRATING:
            return self
        return replace(self, held_out=self.held_out.take(ordinary))


def is_outlier(frame: Atoms) -> bool:
    """Whether a frame was labelled because it is unlike others."""
    return frame.info.get("role") in OUTLIERS
