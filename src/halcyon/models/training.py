"""Training of MACE models: a loop of our own around MACE's model, that a kill cannot hurt.

MACE's own command forgets the running average of the weights, the best loss and the order of
batches when it goes on after a kill (its issue 509). Here every random choice depends on the seed
and the number of the epoch alone: a training that was killed ends in the same model, bit by bit on
a processor, as one that was not. What was measured to choose the rest: docs/decisions/mace.md.

    from pathlib import Path
    from halcyon.config import FitSettings, ModelSettings
    from halcyon.models.training import Recipe, train

    settings = FitSettings(epochs=2, learning_rate=0.01)
    recipe = Recipe(elements=[1, 6, 8], model=ModelSettings(channels=8), fit=settings, seed=1)
    summary = train(frames, held_out, recipe, out=Path("new.model"), work=Path("work"))
    summary.epochs[-1].forces_mae_meV_per_A

Not for: what happens within an epoch (see `learner`), reading and evaluating models (see `mace`),
or which frames a stage learns (see `fit`).
"""

import contextlib
import copy
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms

from halcyon import files
from halcyon.config import FitSettings, ModelSettings
from halcyon.errors import InputError, Interrupted
from halcyon.models import energy_zero, mace
from halcyon.models import graphs as mace_graphs
from halcyon.models.atomic import AtomicReadout, Properties
from halcyon.models.checkpoints import Checkpoint, identity_of
from halcyon.models.graphs import Graph
from halcyon.models.learner import Learner
from halcyon.models.mace import DTYPES
from halcyon.models.metrics import TrainingProgress

RUN = "mace-run"
"""The one folder under `work` that training may delete."""
CHECKPOINT_EVERY_S = 5.0
"""Least time between two checkpoints, s: what a kill can cost, beside the epoch it falls into."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides a model, but for its frames.

    Attributes:
        elements: atomic numbers that the model must know; an element without a training frame
            gets the energy 0 eV.
        model: size and precision. With `start`, the size is that model's; only the precision
            counts.
        fit: epochs, batch size, learning rate and weights of the loss.
        seed: of the weights and the order of batches.
        start: model file to fine-tune, whatever its energy zero; None: random weights.
        start_head: which head of `start` to keep, where it has several.
        device: "cpu", "cuda" or "auto".
        freeze: which blocks of the model do not learn, see `mace.freeze`.
        lora_rank: rank of the adapters that learn instead of the weights; 0: the weights learn.
        atomic: names of atomic properties that readouts of their own learn, see `atomic`.
        atomic_weight: of their loss.
        known_e0s: energies of elements that are not fitted, those of their free atoms, eV, by
            atomic number.
    """

    elements: Sequence[int]
    model: ModelSettings
    fit: FitSettings
    seed: int
    start: Path | None = None
    start_head: str | None = None
    device: str = "cpu"
    freeze: str = "nothing"
    lora_rank: int = 0
    atomic: Sequence[str] = ()
    atomic_weight: float = 1.0
    known_e0s: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Replay:
    """Frames, labelled otherwise, that must not be forgotten; see `training.replay_weight`.

    Attributes:
        frames: any number. Their energies are counted from a zero of their own.
        weight: of their loss against that of the labels; 0: they are not used.
        labelled_by: what labelled them.
    """

    frames: Sequence[Atoms] = ()
    weight: float = 0.0
    labelled_by: Literal["teacher", "start model"] = "teacher"


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """What a training calls meanwhile.

    Attributes:
        progress: called after each epoch. What it raises ends the training.
        stopping: called after each step and each epoch; where it is true, the state is saved and
            the training ends with `Interrupted`.
        say: called with messages for people: memory is short, or a checkpoint is gone on from or
            cannot be read.
    """

    progress: Callable[[TrainingProgress], None] = lambda _: None
    stopping: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = warnings.warn


@dataclass(frozen=True)
class FitSummary:
    """What a training did.

    Attributes:
        epochs: the learning curve.
        best_epoch: epoch with the least validation loss, from 1: its weights were kept.
        e0s: energy of each element in the model, eV, by atomic number.
        seconds: wall time, s, over all attempts.
    """

    epochs: list[TrainingProgress]
    best_epoch: int
    e0s: dict[int, float]
    seconds: float


def train(
    train_frames: Sequence[Atoms],
    validation_frames: Sequence[Atoms],
    recipe: Recipe,
    *,
    out: Path,
    work: Path,
    replay: Replay | None = None,
    callbacks: Callbacks | None = None,
) -> FitSummary:
    """Train a model from random weights, or fine-tune `recipe.start`, and write it to `out`.

    The same inputs, seed and number of threads give bitwise the same model on a processor, also
    where the training was stopped or killed and called again with the same `work`: there, the
    state after the last epochs is kept. Where memory runs out, batches are computed in pieces: the
    same model but for rounding.

    1. A model with random weights is built, or `recipe.start` is read.
    2. The elements' energies are fitted to the training frames: of a model that is fine-tuned, to
       what its interaction energies leave unexplained, so that no offset has to be unlearned. Those
       of `recipe.known_e0s` are taken instead.
    3. The model learns epoch by epoch, see `learner`.
    4. The weights of the epoch with the least validation loss are taken.
    5. The elements' energies that are fitted are fitted again, since short trainings leave a
       constant offset.

    Args:
        train_frames: frames with `info["energy"]` (eV) and `arrays["forces"]` (eV/Å); where
            `recipe.atomic` has names, some with these properties.
        validation_frames: held-out frames with the same labels.
        recipe: what decides the model.
        out: the model file, written atomically.
        work: folder for checkpoints; only `RUN` in it is touched.
        replay: frames that the same readouts must go on predicting: only so do the walls of the
            model that is fine-tuned stay.
        callbacks: progress, messages, and whether to stop.

    Raises:
        InputError: no frames, or elements that the start model or `recipe.elements` does not
            cover, or a frame that does not fit the device's memory alone, or the loss became NaN,
            or no frame has a property of `recipe.atomic`.
        Interrupted: `callbacks.stopping` was true; the next call goes on.
    """
    elements = sorted({int(z) for z in recipe.elements})
    _check(train_frames, "training", elements)
    _check(validation_frames, "validation", elements)
    replay, callbacks = replay or Replay(), callbacks or Callbacks()
    replayed = replay.frames if replay.weight > 0 else ()
    folder = work / RUN
    identity = identity_of(
        [train_frames, validation_frames, replayed],
        [
            elements,
            recipe.model.model_dump(),
            recipe.fit.model_dump(),
            recipe.seed,
            recipe.device,
            recipe.start_head,
            replay.weight,
            recipe.freeze,
            recipe.lora_rank,
            *([[*recipe.atomic], recipe.atomic_weight] if recipe.atomic else []),
            *([sorted(recipe.known_e0s.items())] if recipe.known_e0s else []),
        ],
        recipe.start,
        columns=[f"atomic_{name}" for name in recipe.atomic],
    )
    properties = Properties.learn(train_frames, recipe.atomic) if recipe.atomic else None
    with mace.precision(DTYPES[recipe.model.dtype]), torch.random.fork_rng(), _unoptimised():
        torch.manual_seed(recipe.seed)
        model, e0s = _first_model(recipe, elements, train_frames)
        model = model.to(mace.chosen_device(recipe.device))
        labels, validation = (
            mace_graphs.graphs(frames, model, e0s, properties)
            for frames in (train_frames, validation_frames)
        )
        replay_graphs = []
        if replayed:
            zero = _replay_zero(model, replayed, train_frames, recipe.known_e0s)
            replay_graphs = mace_graphs.graphs(replayed, model, zero)
        _choose_weights(model, recipe)
        readout = None
        if properties is not None:
            readout = AtomicReadout(
                model, properties, weight=recipe.atomic_weight, seed=recipe.seed
            )
        loop = _Loop(
            learner=Learner(
                model, recipe.fit, seed=recipe.seed, say=callbacks.say, readout=readout
            ),
            labels=labels,
            validation=validation,
            replay=replay_graphs,
            replay_weight=replay.weight,
            fit=recipe.fit,
            checkpoint=Checkpoint(folder / "checkpoint.pt", identity),
            callbacks=callbacks,
        )
        loop.resume()
        loop.run()
        trained = loop.best_model()
        if recipe.lora_rank:
            trained = mace.merge_adapters(trained).eval()
        e0s |= energy_zero.move_energy_zero(trained, train_frames, recipe.known_e0s)
    with files.replacing(out) as temporary:
        torch.save(trained.cpu(), temporary)
    shutil.rmtree(folder, ignore_errors=True)
    return FitSummary(
        epochs=loop.curve, best_epoch=loop.best_epoch, e0s=e0s, seconds=loop.seconds_so_far()
    )


def _first_model(
    recipe: Recipe, elements: Sequence[int], frames: Sequence[Atoms]
) -> tuple[Any, dict[int, float]]:
    """The model before its first epoch, and its elements' energies, eV."""
    if recipe.start is not None:
        model: Any = mace.load_start(
            recipe.start,
            elements,
            dtype=recipe.model.dtype,
            device=recipe.device,
            head=recipe.start_head,
        )
        none = dict.fromkeys((int(z) for z in model.atomic_numbers), 0.0)
        return model, none | energy_zero.move_energy_zero(model, frames, recipe.known_e0s)
    e0s = dict.fromkeys(elements, 0.0) | energy_zero.fit_e0s(frames, recipe.known_e0s)
    forces = np.concatenate([atoms.arrays["forces"].ravel() for atoms in frames])
    model = mace.new(
        recipe.model,
        e0s,
        scale=max(float(np.sqrt(np.mean(forces**2))), 1e-3),
        mean_neighbours=mace_graphs.mean_neighbours(frames, recipe.model.r_max_A),
    )
    return model, e0s


def _replay_zero(
    model: Any, replayed: Sequence[Atoms], frames: Sequence[Atoms], known: Mapping[int, float]
) -> dict[int, float]:
    """The zero that energies of replayed frames are counted from, eV: one of their own.

    Known energies of elements move what the labels ask of the model's interaction energies. The
    replayed frames' move as far, so that both ask for the same.
    """
    zero = energy_zero.unexplained_e0s(model, replayed)
    if not known:
        return zero
    fitted = energy_zero.unexplained_e0s(model, frames)
    taken = energy_zero.unexplained_e0s(model, frames, known)
    return {z: e0 - (fitted[z] - taken[z] if z in fitted else 0.0) for z, e0 in zero.items()}


def _choose_weights(model: Any, recipe: Recipe) -> None:
    """Let those weights learn that the recipe names; after the last evaluation of the model."""
    if recipe.lora_rank:
        mace.add_adapters(model, recipe.lora_rank)
    else:
        mace.freeze(model, recipe.freeze)


@dataclass(kw_only=True)
class _Loop:
    """Epochs, the best of them, and the checkpoints between.

    Attributes:
        learner: makes the epochs.
        labels: graphs of the training frames.
        validation: graphs of the validation frames.
        replay: graphs of the replayed frames.
        replay_weight: of their loss.
        fit: number of epochs, and the learning rate for a message.
        checkpoint: where the state is kept.
        callbacks: progress, messages, and whether to stop.
        epoch: number of epochs done.
        curve: an entry for each of them.
        best_loss: least validation loss so far.
        best_epoch: its epoch, from 1.
        best: averaged weights of that epoch.
    """

    learner: Learner
    labels: list[Graph]
    validation: list[Graph]
    replay: list[Graph]
    replay_weight: float
    fit: FitSettings
    checkpoint: Checkpoint
    callbacks: Callbacks
    epoch: int = 0
    curve: list[TrainingProgress] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    _saved_epoch: int = 0  # epochs that a kill would leave done
    _saved_at: float = -math.inf
    _seconds_before: float = 0.0
    _begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.epochs = self.fit.epochs_of(len(self.labels))
        self.best = copy.deepcopy(self.learner.average.state_dict())

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.epochs

    def seconds_so_far(self) -> float:
        """Wall time, s, over all attempts."""
        return self._seconds_before + time.monotonic() - self._begun

    def run(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: `callbacks.stopping` was true; the state is saved.
        """
        while not self.finished:
            done = self._one_epoch()
            try:
                self.callbacks.progress(done)
            except Interrupted:
                self.save()
                raise
            if self.finished or time.monotonic() - self._saved_at > CHECKPOINT_EVERY_S:
                self.save()
            if self.callbacks.stopping() and not self.finished:
                self.save()
                raise Interrupted(f"stopped after epoch {self.epoch} of {self.epochs}")

    def best_model(self) -> Any:
        """The model with the averaged weights of the best epoch."""
        self.learner.average.load_state_dict(self.best)
        return self.learner.average.eval()

    def _one_epoch(self) -> TrainingProgress:
        """Make an optimiser step per batch, then validate."""
        self.learner.set_learning_rate(self.epoch, self.epochs)
        losses = []
        for loss in self.learner.losses(self.epoch, self.labels, self.replay, self.replay_weight):
            losses.append(loss)
            if self._saved_epoch == self.epoch and self.callbacks.stopping():
                raise Interrupted(f"stopped in epoch {self.epoch + 1} of {self.epochs}")
        training_loss = float(np.mean(losses))
        loss, errors = self.learner.validated(self.validation)
        if not (math.isfinite(loss) and math.isfinite(training_loss)):
            raise InputError(
                f"the training diverged in epoch {self.epoch + 1}: the loss became NaN or "
                f"infinite. Set a learning_rate smaller than {self.fit.learning_rate:g}, or look "
                "for labels with absurd energies or forces"
            )
        self.epoch += 1
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, self.epoch
            self.best = copy.deepcopy(self.learner.average.state_dict())
        self.curve.append(
            TrainingProgress(epoch=self.epoch, of=self.epochs, loss=training_loss, **errors)
        )
        return self.curve[-1]

    def save(self) -> None:
        """Write a checkpoint with all that the next epoch depends on, unless there is one."""
        if self._saved_epoch == self.epoch:
            return
        self.checkpoint.write(
            self.learner.state()
            | {
                "epoch": self.epoch,
                "curve": [done.model_dump() for done in self.curve],
                "best_loss": self.best_loss,
                "best_epoch": self.best_epoch,
                "best": self.best,
                "seconds": self.seconds_so_far(),
            }
        )
        self._saved_epoch, self._saved_at = self.epoch, time.monotonic()

    def resume(self) -> None:
        """Go on from the checkpoint of this training, if there is one."""
        content = self.checkpoint.read(self.callbacks.say)
        if content is None:
            return
        self.learner.restore(content)
        self.epoch = self._saved_epoch = content["epoch"]
        self._saved_at = time.monotonic()
        self.curve = [TrainingProgress(**done) for done in content["curve"]]
        self.best_loss, self.best_epoch = content["best_loss"], content["best_epoch"]
        self.best = content["best"]
        self._seconds_before = content["seconds"]
        self.callbacks.say(f"going on after epoch {self.epoch} of {self.epochs}")


def _unoptimised() -> contextlib.AbstractContextManager[None]:
    """Keep TorchScript from optimising e3nn's code after the first calls of a process.

    Optimised code rounds otherwise: a resumed training would differ from one that was never
    stopped. The optimisation saves no time here.
    """
    off: contextlib.AbstractContextManager[None] = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
    return off


def _check(frames: Sequence[Atoms], what: str, elements: Sequence[int]) -> None:
    if not frames:
        raise InputError(f"no {what} frames: at least one is needed")
    if missing := {int(z) for atoms in frames for z in atoms.numbers} - set(elements):
        raise InputError(
            f"the {what} frames hold {mace.symbols(missing)}, but the system's elements are "
            f"{mace.symbols(elements)}: name a structure with {mace.symbols(missing)} in the "
            "system's file, or remove these frames"
        )
