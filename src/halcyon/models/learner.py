"""One epoch of a training: optimiser steps on batches, and the validation of averaged weights.

An epoch, with `f` the part of all epochs that is done before it:

1. The learning rate is set to `initial · FINAL_LEARNING_RATE^f`.
2. The training frames are shuffled by seed and number of the epoch, and split into batches.
3. For each batch, the gradient of the loss is computed; with replay, the weighted gradient of as
   many replayed frames, drawn anew, is added. Gradients are clipped, and Adam makes a step.
4. After each step, the running average of the weights moves towards them.
5. The averaged weights are validated: they are what is kept, not the last weights.

The loss of a set of frames is `w_E · mean h(ΔE / N) + w_F · mean |ΔF| + w_S · mean V |Δσ| / N`:
over frames in eV/atom, over atoms in eV/Å, |ΔF| being the length of the error of an atom's force,
and over the frames whose labels have a stress in eV/atom, |Δσ| being the Frobenius norm of its
error and V the volume. `h` is the absolute value or, with `energy_huber_meV_per_atom`, Huber's
function over its width. A frame without a stress adds nothing to the last mean. With a readout of
atomic properties its own loss is added (see `atomic`), but not to the loss of the validation: the
best epoch is that of the model, which is handed over without that readout.

Not for: how long a training goes on, and its checkpoints (see `training`).
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from halcyon.config import FitSettings
from halcyon.errors import InputError
from halcyon.labels.stress import GPA
from halcyon.models.atomic import AtomicReadout
from halcyon.models.fast.contraction import compiled_contractions
from halcyon.models.fast.training_pass import TrainingPass
from halcyon.models.graphs import Graph, joined

FINAL_LEARNING_RATE = 0.02  # of the initial one, reached in the last epoch
AVERAGE_DECAY = 0.99  # of the running average of the weights, per step
WEIGHT_DECAY = 5e-7
LARGEST_GRADIENT = 10.0
VALIDATION_BATCH = 64


@dataclass(frozen=True)
class _Weights:
    """Weights that learn, and the running average of each.

    They are looked up once: a walk through MACE's modules takes as long as a tenth of a step.
    """

    learning: list[torch.Tensor]
    average: list[torch.Tensor]

    @classmethod
    def of(cls, module: torch.nn.Module, average: torch.nn.Module) -> "_Weights":
        """Those of two modules."""
        return cls([*module.parameters()], [*average.parameters()])


class Learner:
    """A model in training: its weights, their running average, and the optimiser.

    Attributes:
        model: weights that the optimiser moves.
        average: the same model with the running average of the weights.
        optimizer: Adam.
        updates: optimiser steps made.
        pieces: number of pieces that a batch is computed in, where memory is short.
        readout: of atomic properties, which learns with the model; None: there is none.
        training_pass: evaluates the model in its place; None: MACE's own forward does.
    """

    def __init__(
        self,
        model: Any,
        fit: FitSettings,
        *,
        seed: int,
        say: Callable[[str], None],
        readout: AtomicReadout | None = None,
    ) -> None:
        """Begin with a model, which is changed.

        Args:
            model: a MACE model, on its device.
            fit: batch size, learning rate and weights of the loss.
            seed: of the order of batches.
            say: called with a message where memory is short.
            readout: of atomic properties.
        """
        self.model = model.train()
        self.readout = readout
        self.average = copy.deepcopy(model).requires_grad_(False)
        self._weights = [_Weights.of(self.model, self.average)]
        if readout is not None:
            self._weights.append(_Weights.of(readout.network, readout.average))
        self.optimizer = _optimizer(model, fit.learning_rate, readout)
        self.updates = 0
        self.pieces = 1
        self._fit, self._seed, self._say = fit, seed, say
        self.training_pass = TrainingPass.of(model)

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, for a checkpoint."""
        readout = {} if self.readout is None else {"readout": self.readout.state()}
        return readout | {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "pieces": self.pieces,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.readout is not None:
            self.readout.restore(state["readout"])
        self.updates, self.pieces = state["updates"], state["pieces"]

    def set_learning_rate(self, epoch: int, epochs: int) -> None:
        """Set the rate of an epoch, counted from 0, of `epochs`."""
        decay = FINAL_LEARNING_RATE ** (epoch / max(epochs - 1, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = self._fit.learning_rate * decay

    def losses(
        self, epoch: int, graphs: list[Graph], replay: list[Graph], replay_weight: float
    ) -> Iterator[float]:
        """Make the optimiser steps of an epoch; after each, its loss on the labels.

        Args:
            epoch: number of the epoch, from 0: with the seed, it decides the order.
            graphs: labelled frames.
            replay: replayed frames; as many as labels are drawn for each step.
            replay_weight: weight of their loss.
        """
        rng = np.random.default_rng([self._seed, epoch])
        batches = math.ceil(len(graphs) / self._fit.batch_size)
        for indices in np.array_split(rng.permutation(len(graphs)), batches):
            drawn = []
            if replay:
                size = min(len(indices), len(replay))
                drawn = list(rng.choice(len(replay), size, replace=False))
            labels = [graphs[i] for i in indices]
            yield self._step(labels, [replay[i] for i in drawn], replay_weight)

    def _step(self, labels: list[Graph], replay: list[Graph], replay_weight: float) -> float:
        """Make one optimiser step; gives its loss on the labels."""
        while True:
            try:
                self.optimizer.zero_grad(set_to_none=True)
                loss = self._add_gradient(labels, 1.0)
                if replay:
                    self._add_gradient(replay, replay_weight)
                break
            except torch.OutOfMemoryError as error:
                self._use_more_pieces(labels, error)
        for weights in self._weights:
            torch.nn.utils.clip_grad_norm_(weights.learning, LARGEST_GRADIENT, foreach=True)
        self.optimizer.step()
        self.updates += 1
        decay = min(AVERAGE_DECAY, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            for weights in self._weights:
                torch._foreach_lerp_(weights.average, weights.learning, 1 - decay)
        return loss

    def _add_gradient(self, graphs: list[Graph], weight: float) -> float:
        """Add the weighted gradient of the graphs' mean loss, piece by piece; gives the loss."""
        total = 0.0
        atoms = sum(graph.n_atoms for graph in graphs)
        stressed = self._number_with_stress(graphs)
        known = _known_properties(graphs)
        size = math.ceil(len(graphs) / self.pieces)
        for begin in range(0, len(graphs), size):
            batch = joined(graphs[begin : begin + size])
            result = self._evaluated(self.model, batch, training=True, virials=stressed > 0)
            energy = (result["interaction_energy"] - batch["energy"]) / batch["n_atoms"]
            force = torch.linalg.vector_norm(result["forces"] - batch["forces"], dim=-1)
            loss = self._fit.energy_weight * self._sizes(energy).sum() / len(graphs)
            loss = loss + self._fit.forces_weight * force.sum() / atoms
            if stressed:
                virial = _virial_errors(result, batch)
                loss = loss + self._fit.weight_of_stress * virial.sum() / stressed
            if self.readout is not None and known is not None:
                loss = loss + self.readout.loss(result["node_feats"], batch["atomic"], known)
            (weight * loss).backward()
            total += float(loss.detach())
        return total

    def _sizes(self, errors: torch.Tensor) -> torch.Tensor:
        """What errors of energies count, eV/atom: Huber's function over its width, slope 1 at most.

        P. J. Huber, Ann. Math. Stat. 35, 73 (1964).
        """
        width = self._fit.energy_huber_meV_per_atom / 1000
        if width == 0:
            return errors.abs()
        none = torch.zeros_like(errors)
        return torch.nn.functional.huber_loss(errors, none, reduction="none", delta=width) / width

    def _evaluated(
        self, model: Any, batch: dict[str, torch.Tensor], *, training: bool, virials: bool
    ) -> dict[str, Any]:
        """What the model, or the one with averaged weights, says of a batch."""
        if self.training_pass is not None:
            return self.training_pass(model, batch, training=training, compute_virials=virials)
        with compiled_contractions(model):
            result: dict[str, Any] = model(batch, training=training, compute_virials=virials)
        return result

    def _number_with_stress(self, graphs: list[Graph]) -> int:
        """How many labels have a stress that is learned."""
        if self._fit.weight_of_stress == 0:
            return 0
        return sum(graph.virial is not None for graph in graphs)

    def _use_more_pieces(self, labels: list[Graph], error: BaseException) -> None:
        """After the memory was too small: compute batches in more pieces."""
        batch = len(labels)
        if self.pieces >= batch:
            raise _too_large(labels) from error
        self.pieces = min(2 * self.pieces, batch)
        self._say(
            f"memory is too small for batches of {batch} frames: they are computed in "
            f"{self.pieces} pieces each, with the same result but for rounding"
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def validated(self, graphs: list[Graph]) -> tuple[float, dict[str, float]]:
        """Loss and errors of the averaged weights.

        Args:
            graphs: validation frames.

        Returns:
            The loss of energies, forces and stresses, and the errors of a `TrainingProgress` by
            name.
        """
        energies, forces, virials, stresses, properties = [], [], [], [], []
        any_stress = any(graph.virial is not None for graph in graphs)
        size = VALIDATION_BATCH
        rest = list(graphs)
        while rest:
            try:
                batch = joined(rest[:size])
                result = self._evaluated(self.average, batch, training=False, virials=any_stress)
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise _too_large(graphs) from error
                size //= 2
                self._say(f"memory is too small: {size} frames at once are validated")
                continue
            rest = rest[size:]
            energies.append((result["interaction_energy"] - batch["energy"]) / batch["n_atoms"])
            forces.append(result["forces"].detach() - batch["forces"])
            if any_stress:
                virials.append(_virial_errors(result, batch).detach())
                stresses.append(_stress_errors(result, batch).detach())
            if self.readout is not None:
                properties.append(self.readout.errors(result["node_feats"], batch["atomic"]))
        energy, force = torch.cat(energies).detach().double(), torch.cat(forces).double()
        loss = self._fit.energy_weight * self._sizes(energy).mean()
        loss = loss + self._fit.forces_weight * torch.linalg.vector_norm(force, dim=-1).mean()
        errors = {
            "forces_mae_meV_per_A": 1e3 * float(force.abs().mean()),
            "forces_rmse_meV_per_A": 1e3 * float(force.pow(2).mean().sqrt()),
            "energy_mae_meV_per_atom": 1e3 * float(energy.abs().mean()),
            "energy_rmse_meV_per_atom": 1e3 * float(energy.pow(2).mean().sqrt()),
        }
        if any_stress:
            loss = loss + self._fit.weight_of_stress * torch.cat(virials).double().mean()
            errors["stress_mae_GPa"] = float(torch.cat(stresses).double().mean()) / GPA
        if self.readout is not None:
            errors |= self.readout.named(torch.cat(properties))
        return float(loss), errors


def _virial_errors(result: dict[str, Any], batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Frobenius norm of the error of each virial, eV/atom, of the frames that have a label."""
    error = (result["virials"] - batch["label_virial"])[batch["has_virial"]]
    return torch.linalg.matrix_norm(error) / batch["n_atoms"][batch["has_virial"]]


def _stress_errors(result: dict[str, Any], batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Errors of the six numbers of each stress, eV/Å³, of the frames that have a label."""
    known = batch["has_virial"]
    volumes = torch.linalg.det(batch["cell"].view(-1, 3, 3)[known]).abs()
    error = (result["virials"] - batch["label_virial"])[known] / volumes[:, None, None]
    rows, columns = torch.triu_indices(3, 3)
    return error[:, rows, columns].abs()


def _known_properties(graphs: list[Graph]) -> torch.Tensor | None:
    """Atoms whose property is known, (P,); None where none is learned from these graphs."""
    properties = [graph.atomic for graph in graphs if graph.atomic is not None]
    return torch.isfinite(torch.cat(properties)).sum(0) if properties else None


def _too_large(graphs: list[Graph]) -> InputError:
    return InputError(
        f"a frame of up to {max(graph.n_atoms for graph in graphs)} atoms does not fit the "
        "device's memory even alone: train a smaller model (channels, max_L, r_max_A), in "
        "float32, or on a device with more memory"
    )


def _optimizer(
    model: Any, learning_rate: float, readout: AtomicReadout | None
) -> torch.optim.Optimizer:
    """Adam as MACE sets it up: weights that mix channels decay, the others do not.

    Weights that do not learn are left out: they would decay.
    """
    decaying: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        mixes = name.startswith("products.") or (
            name.startswith("interactions.")
            and ("linear.weight" in name or "skip_tp_full.weight" in name)
        )
        (decaying if mixes else free).append(parameter)
    groups = [
        {"params": decaying, "weight_decay": WEIGHT_DECAY},
        {"params": free, "weight_decay": 0.0},
    ]
    if readout is not None:
        groups.append({"params": list(readout.network.parameters()), "weight_decay": 0.0})
    return torch.optim.Adam(groups, lr=learning_rate, amsgrad=True, fused=True)
