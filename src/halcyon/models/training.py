"""Training of MACE models: a loop of our own around MACE's model, that a kill cannot hurt.

MACE's own command forgets the running average of the weights, the best loss and the order of
batches when it goes on after a kill (its issue 509). Here every random choice depends on the seed
and the number of the epoch alone: a training that was killed ends in the same model, bit by bit on
a processor, as one that was not. What was measured to choose the rest: docs/decisions/mace.md.

Not for: reading and evaluating models (see `mace_model`), or what is fitted when (see `training`).

    train(frames, held_out, elements=[1, 6, 8], model=ModelSettings(), fit=TrainingSettings(),
          start=None, out=Path("m.model"), work=Path("work"), seed=1, device="cpu")
"""

import contextlib
import copy
import hashlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from halcyon import files
from halcyon.config import FitSettings, ModelSettings
from halcyon.errors import InputError, Interrupted
from halcyon.models import graphs as mace_graphs
from halcyon.models import mace
from halcyon.models.graphs import Graph, joined
from halcyon.models.mace import DTYPES

RUN = "mace-run"  # the one folder under `work` that training may delete
CHECKPOINT_EVERY_S = 5.0
"""Least time between two checkpoints, s: what a kill can cost, beside the epoch it falls into."""
CHECKPOINT_VERSION = 1

FINAL_LEARNING_RATE = 0.02  # of the initial one, reached in the last epoch
AVERAGE_DECAY = 0.99  # of the running average of the weights, per step
WEIGHT_DECAY = 5e-7
LARGEST_GRADIENT = 10.0
VALIDATION_BATCH = 64


@dataclass(frozen=True)
class Progress:
    """One epoch of a training."""

    epoch: int
    """Epoch just done, from 1."""
    of: int
    """Epochs in all."""
    loss: float
    """Mean training loss of the epoch: weights times eV/atom and eV/Å."""
    forces_mae_meV_per_A: float
    """Validation error of force components, meV/Å; so are the next three."""
    forces_rmse_meV_per_A: float
    energy_mae_meV_per_atom: float
    energy_rmse_meV_per_atom: float


@dataclass(frozen=True)
class FitSummary:
    """What a training did."""

    epochs: list[Progress]
    """The learning curve."""
    best_epoch: int
    """Epoch with the least validation loss: the model that was kept."""
    e0s: dict[int, float]
    """Energy of each element in the model, eV, by atomic number."""
    seconds: float
    """Wall time, s, over all attempts."""


def train(
    train_frames: Sequence[Atoms],
    validation_frames: Sequence[Atoms],
    *,
    elements: Sequence[int],
    model: ModelSettings,
    fit: FitSettings,
    start: Path | None,
    out: Path,
    work: Path,
    seed: int,
    device: str = "cpu",
    start_head: str | None = None,
    replay: Sequence[Atoms] = (),
    replay_weight: float = 0.0,
    progress: Callable[[Progress], None] | None = None,
    stopping: Callable[[], bool] | None = None,
    say: Callable[[str], None] = warnings.warn,
) -> FitSummary:
    """Train a model from scratch, or fine-tune `start`, and write it to `out`.

    The model kept is the epoch with the least validation loss (of the running average of the
    weights). The same inputs, seed and number of threads give bitwise the same model on a
    processor, also where the training was stopped or killed and called again with the same
    `work`: there, the state after the last epochs is kept.

    The elements' energies are fitted to the training frames: before the training, to what the
    interaction energies of `start` leave unexplained, so that nothing is left to unlearn; and
    once more after it, since short trainings leave a constant offset.

    Replayed frames are learned by the same readouts: only so do the model's own walls stay. Their
    energies are counted from a zero of their own.

    Where memory runs out, batches are computed in pieces: the same model but for rounding.

    Args:
        train_frames: frames with `info["energy"]` (eV) and `arrays["forces"]` (eV/Å).
        validation_frames: the same, held out.
        elements: atomic numbers the model must know; an element without a training frame gets
            the energy 0 eV.
        model: size and precision. With `start`, its size is that model's; only the precision
            counts.
        fit: epochs, batch size, learning rate and weights.
        start: model file to fine-tune. Its energy zero does not matter.
        out: the model file, written atomically.
        work: folder for checkpoints; only `mace-run` in it is touched.
        seed: of the weights and the order of batches.
        device: "cpu", "cuda" or "auto".
        start_head: which head of `start`, where it has several.
        replay: frames, labelled otherwise, not to be forgotten meanwhile; see
            `training.replay_weight`.
        replay_weight: of their loss against that of the labels; 0: they are not looked at.
        progress: called after each epoch. What it raises ends the training.
        stopping: asked often; where it says yes, the state is saved.
        say: told when memory was short.

    Raises:
        InputError: no frames, or elements that `start` or `elements` does not cover, or a frame
            that does not fit the device's memory alone.
        Interrupted: `stopping` said yes; the next call goes on.
    """
    elements = sorted({int(z) for z in elements})
    _check(train_frames, "training", elements)
    _check(validation_frames, "validation", elements)
    replay = replay if replay_weight > 0 else ()
    folder = work / RUN
    identity = _identity(
        [train_frames, validation_frames, replay],
        [elements, model.model_dump(), fit.model_dump(), seed, device, start_head, replay_weight],
        start,
    )
    with mace.precision(DTYPES[model.dtype]), torch.random.fork_rng(), _always_alike():
        torch.manual_seed(seed)
        if start is None:
            begun, e0s = _from_scratch(train_frames, elements, model)
        else:
            found = mace.load_start(
                start, elements, dtype=model.dtype, device=device, head=start_head
            )
            begun, e0s = _handed_over(found, train_frames)
        begun = begun.to(mace.chosen_device(device)).requires_grad_(True)
        job = _Fit(
            begun,
            graphs=mace_graphs.graphs(train_frames, begun, e0s),
            validation=mace_graphs.graphs(validation_frames, begun, e0s),
            replay=_replayed(replay, begun) if replay else [],
            replay_weight=replay_weight,
            fit=fit,
            seed=seed,
            checkpoint=folder / "checkpoint.pt",
            identity=identity,
            say=say,
        )
        job.resume()
        job.run(progress, stopping or (lambda: False))
        trained = job.best_model()
        e0s |= mace.move_energy_zero(trained, train_frames)
    with files.replacing(out) as temporary:
        torch.save(trained.cpu(), temporary)
    shutil.rmtree(folder, ignore_errors=True)
    return FitSummary(
        epochs=job.curve, best_epoch=job.best_epoch, e0s=e0s, seconds=job.seconds_so_far()
    )


def _from_scratch(
    frames: Sequence[Atoms], elements: Sequence[int], settings: ModelSettings
) -> tuple[Any, dict[int, float]]:
    """A model of random weights, and the elements' energies it was given."""
    e0s = dict.fromkeys(elements, 0.0) | mace.fit_e0s(frames)
    forces = np.concatenate([atoms.arrays["forces"].ravel() for atoms in frames])
    model = mace.new(
        settings,
        e0s,
        scale=max(float(np.sqrt(np.mean(forces**2))), 1e-3),
        mean_neighbours=mace_graphs.mean_neighbours(frames, settings.r_max_A),
    )
    return model, e0s


def _handed_over(model: Any, frames: Sequence[Atoms]) -> tuple[Any, dict[int, float]]:
    """The model to fine-tune, moved to the frames' energy zero."""
    known = [int(z) for z in model.atomic_numbers]
    return model, dict.fromkeys(known, 0.0) | mace.move_energy_zero(model, frames)


def _replayed(frames: Sequence[Atoms], model: Any) -> list[Graph]:
    """Graphs of frames whose energies are counted from a zero of their own."""
    e0s = mace.unexplained_e0s(model, frames)
    model.requires_grad_(True)
    return mace_graphs.graphs(frames, model, e0s)


class _Fit:
    """The state of a training, and its steps."""

    def __init__(
        self,
        model: Any,
        *,
        graphs: list[Graph],
        validation: list[Graph],
        replay: list[Graph],
        replay_weight: float,
        fit: FitSettings,
        seed: int,
        checkpoint: Path,
        identity: str,
        say: Callable[[str], None],
    ) -> None:
        self.model = model
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.graphs, self.validation, self.replay = graphs, validation, replay
        self.replay_weight = replay_weight
        self.fit, self.seed, self.say = fit, seed, say
        self.checkpoint, self.identity = checkpoint, identity
        self.epochs = fit.epochs_of(len(graphs))
        self.optimizer = _optimizer(model, fit.learning_rate)
        self.epoch = 0  # epochs done
        self.updates = 0
        self.pieces = 1
        self.curve: list[Progress] = []
        self.best_loss = math.inf
        self.best_epoch = 0
        self.best = copy.deepcopy(self.average.state_dict())
        self.finished = False
        self._saved = 0  # epochs that a kill would leave done
        self._saved_at = -math.inf
        self._seconds_before = 0.0
        self._begun = time.monotonic()

    def seconds_so_far(self) -> float:
        """Wall time, s, over all attempts."""
        return self._seconds_before + time.monotonic() - self._begun

    def run(
        self, progress: Callable[[Progress], None] | None, stopping: Callable[[], bool]
    ) -> None:
        """Train to the end."""
        while not self.finished:
            done = self._one_epoch(stopping)
            try:
                if progress is not None:
                    progress(done)
            except Interrupted:
                self.save()
                raise
            if self.finished or time.monotonic() - self._saved_at > CHECKPOINT_EVERY_S:
                self.save()
            if stopping() and not self.finished:
                self.save()
                raise Interrupted(f"stopped after epoch {self.epoch} of {self.epochs}")

    def best_model(self) -> Any:
        """The average of the epoch with the least validation loss."""
        self.average.load_state_dict(self.best)
        return self.average.eval()

    def _one_epoch(self, stopping: Callable[[], bool]) -> Progress:
        """An optimiser step per batch, then the validation."""
        for group in self.optimizer.param_groups:
            decay = FINAL_LEARNING_RATE ** (self.epoch / max(self.epochs - 1, 1))
            group["lr"] = self.fit.learning_rate * decay
        losses = []
        rng = np.random.default_rng([self.seed, self.epoch])
        batches = math.ceil(len(self.graphs) / self.fit.batch_size)
        self.model.train()
        for indices in np.array_split(rng.permutation(len(self.graphs)), batches):
            replay = []
            if self.replay:
                size = min(len(indices), len(self.replay))
                replay = list(rng.choice(len(self.replay), size, replace=False))
            losses.append(
                self._step([self.graphs[i] for i in indices], [self.replay[i] for i in replay])
            )
            if self._saved == self.epoch and stopping():
                raise Interrupted(f"stopped in epoch {self.epoch + 1} of {self.epochs}")
        loss, errors = self._validated()
        if not math.isfinite(loss):
            raise InputError(
                f"the training diverged in epoch {self.epoch + 1}: its loss is no number any more; "
                f"learning_rate = {self.fit.learning_rate:g}: expected a smaller one"
            )
        self.epoch += 1
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, self.epoch
            self.best = copy.deepcopy(self.average.state_dict())
        self.finished = self.epoch >= self.epochs
        self.curve.append(
            Progress(epoch=self.epoch, of=self.epochs, loss=float(np.mean(losses)), **errors)
        )
        return self.curve[-1]

    def _step(self, labels: list[Graph], replay: list[Graph]) -> float:
        """One optimiser step; gives its loss on the labels."""
        while True:
            try:
                self.optimizer.zero_grad(set_to_none=True)
                loss = self._backward(labels, 1.0)
                if replay:
                    self._backward(replay, self.replay_weight)
                break
            except torch.OutOfMemoryError as error:
                self._smaller(len(labels), error)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        self.updates += 1
        decay = min(AVERAGE_DECAY, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - decay
            )
        return loss

    def _backward(self, graphs: list[Graph], weight: float) -> float:
        """Add the gradient of the graphs' mean loss, piece by piece."""
        total = 0.0
        atoms = sum(graph.n_atoms for graph in graphs)
        for piece in _parts(graphs, math.ceil(len(graphs) / self.pieces)):
            batch = joined(piece)
            result = self.model(batch, training=True)
            energy = (result["interaction_energy"] - batch["energy"]).abs() / batch["n_atoms"]
            force = torch.linalg.vector_norm(result["forces"] - batch["forces"], dim=-1)
            loss = self.fit.energy_weight * energy.sum() / len(graphs)
            loss = loss + self.fit.forces_weight * force.sum() / atoms
            (weight * loss).backward()
            total += float(loss.detach())
        return total

    def _smaller(self, batch: int, error: BaseException) -> None:
        """After the memory was too small: compute batches in more pieces."""
        if self.pieces >= batch:
            raise InputError(
                f"a frame of up to {max(graph.n_atoms for graph in self.graphs)} atoms does not "
                "fit the device's memory even alone: train a smaller model (channels, max_L, "
                "r_max_A), in float32, or on a device with more memory"
            ) from error
        self.pieces = min(2 * self.pieces, batch)
        self.say(
            f"memory is too small for batches of {batch} frames: they are computed in "
            f"{self.pieces} pieces each, with the same result but for rounding"
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _validated(self) -> tuple[float, dict[str, float]]:
        """Validation loss, and errors as in `Progress`, of the averaged weights."""
        energy, force = [], []
        size = VALIDATION_BATCH
        left = list(self.validation)
        while left:
            try:
                batch = joined(left[:size])
                result = self.average(batch, training=False)
            except torch.OutOfMemoryError as error:
                if size == 1:
                    self._smaller(1, error)
                size //= 2
                self.say(f"memory is too small: {size} frames at once are validated")
                continue
            left = left[size:]
            energy.append((result["interaction_energy"] - batch["energy"]) / batch["n_atoms"])
            force.append(result["forces"].detach() - batch["forces"])
        de, df = torch.cat(energy).detach().double(), torch.cat(force).double()
        loss = self.fit.energy_weight * de.abs().mean()
        loss = loss + self.fit.forces_weight * torch.linalg.vector_norm(df, dim=-1).mean()
        return float(loss), {
            "forces_mae_meV_per_A": 1e3 * float(df.abs().mean()),
            "forces_rmse_meV_per_A": 1e3 * float(df.pow(2).mean().sqrt()),
            "energy_mae_meV_per_atom": 1e3 * float(de.abs().mean()),
            "energy_rmse_meV_per_atom": 1e3 * float(de.pow(2).mean().sqrt()),
        }

    def save(self) -> None:
        """Write all that the next epoch depends on."""
        if self._saved == self.epoch:
            return
        content = {
            "version": CHECKPOINT_VERSION,
            "identity": self.identity,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "updates": self.updates,
            "pieces": self.pieces,
            "curve": [asdict(done) for done in self.curve],
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "best": self.best,
            "finished": self.finished,
            "seconds": self.seconds_so_far(),
        }
        with files.replacing(self.checkpoint) as temporary:
            torch.save(content, temporary)
        self._saved, self._saved_at = self.epoch, time.monotonic()

    def resume(self) -> None:
        """Go on where a checkpoint of this very training stands; else it is removed."""
        try:
            found = torch.load(self.checkpoint, weights_only=True)
            known = (found["version"], found["identity"]) == (CHECKPOINT_VERSION, self.identity)
        except FileNotFoundError:
            return
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it cannot be used
            known = False
        if not known:
            self.checkpoint.unlink()
            return
        self.model.load_state_dict(found["model"])
        self.average.load_state_dict(found["average"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.epoch = self._saved = found["epoch"]
        self._saved_at = time.monotonic()
        self.updates, self.pieces = found["updates"], found["pieces"]
        self.curve = [Progress(**done) for done in found["curve"]]
        self.best_loss, self.best_epoch = found["best_loss"], found["best_epoch"]
        self.best, self.finished = found["best"], found["finished"]
        self._seconds_before = found["seconds"]
        self.say(f"going on after epoch {self.epoch} of {self.epochs}")


def _optimizer(model: Any, learning_rate: float) -> torch.optim.Optimizer:
    """Adam as MACE sets it up: what mixes channels decays."""
    decaying: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        mixes = name.startswith("products.") or (
            name.startswith("interactions.")
            and ("linear.weight" in name or "skip_tp_full.weight" in name)
        )
        (decaying if mixes else free).append(parameter)
    groups = [
        {"params": decaying, "weight_decay": WEIGHT_DECAY},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.Adam(groups, lr=learning_rate, amsgrad=True)


def _identity(frames: Sequence[Sequence[Atoms]], settings: list[Any], start: Path | None) -> str:
    """Hash of all that a training depends on: a checkpoint of another one is not taken."""
    text = hashlib.sha256(json.dumps([*settings, torch.get_num_threads()]).encode())
    for group in frames:
        text.update(b"group")
        for atoms in group:
            for part in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
                text.update(np.ascontiguousarray(part).tobytes())
            text.update(np.float64(atoms.info["energy"]).tobytes())
            text.update(np.asarray(atoms.arrays["forces"], dtype=float).tobytes())
    if start is not None:
        with contextlib.suppress(FileNotFoundError):  # told about later
            text.update(start.read_bytes())
    return text.hexdigest()


def _parts(graphs: list[Graph], size: int) -> Iterator[list[Graph]]:
    for begin in range(0, len(graphs), size):
        yield graphs[begin : begin + size]


def _always_alike() -> contextlib.AbstractContextManager[None]:
    """Keep TorchScript from optimising e3nn's code after the first calls of a process.

    It would round otherwise than before: a resumed training would differ. It saves no time here.
    """
    off: contextlib.AbstractContextManager[None] = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
    return off


def _check(frames: Sequence[Atoms], what: str, elements: Sequence[int]) -> None:
    if not frames:
        raise InputError(f"no {what} frames: at least one is needed")
    if missing := {int(z) for atoms in frames for z in atoms.numbers} - set(elements):
        raise InputError(
            f"the {what} frames hold {mace.symbols(missing)}, the system's elements are "
            f"{mace.symbols(elements)}"
        )
