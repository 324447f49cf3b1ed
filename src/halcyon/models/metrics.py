"""`metrics.json`: what a training did, and the errors of the model that it made.

`pretrained.json`, of the pre-training on the teacher's frames, has the same form.

    from pathlib import Path
    from halcyon.models.metrics import Metrics

    metrics = Metrics.read(Path("results/quickstart/ethanol/gen000/metrics.json"))
    metrics.test.forces_mae_meV_per_A

Not for: computing errors (see `mace.errors`), or the points of a parity plot (see `parity`).
"""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from halcyon.models.forgetting import Forgetting
from halcyon.verdict.forms import File, Form


class SetErrors(Form):
    """Errors of a model on a set of frames; of forces and stresses over their components."""

    energy_mae_meV_per_atom: float
    energy_rmse_meV_per_atom: float
    forces_mae_meV_per_A: float
    forces_rmse_meV_per_A: float
    stress_mae_GPa: float | None = Field(
        None, description="Null: no label has a stress, or an early release wrote the file."
    )
    stress_mae_eV_per_A3: float | None = Field(None, description="The same in eV/Å³.")
    frames: int = Field(description="Number of frames in the set.")
    frames_with_stress: int = Field(0, description="Those of them whose label has a stress.")

    @model_serializer(mode="wrap")
    def _without_stress(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave stresses out where there are none: cards of early releases stay as they are."""
        content: dict[str, Any] = serialise(self)
        if self.frames_with_stress == 0:
            for key in ("stress_mae_GPa", "stress_mae_eV_per_A3", "frames_with_stress"):
                del content[key]
        return content


def _is_none(value: float | None) -> bool:
    """Left out of the file: of most trainings it is not known, nor in files of early releases."""
    return value is None


class TrainingProgress(Form):
    """One epoch of a training: its loss, and errors of the averaged weights on validation frames.

    Attributes:
        epoch: number of the epoch just done, from 1.
        of: epochs in all.
        loss: mean training loss of the epoch: the settings' weights times eV/atom and eV/Å.
        forces_mae_meV_per_A: mean absolute error of force components.
        forces_rmse_meV_per_A: root-mean-square error of force components.
        energy_mae_meV_per_atom: mean absolute error of energies.
        energy_rmse_meV_per_atom: root-mean-square error of energies.
        stress_mae_GPa: mean absolute error of the six numbers of a stress; None where no label of
            the set has one.
        charges_mae_e: mean absolute error of atomic charges; None where they are not learned.
        atomic_energies_mae_meV: of atomic energies.
        bond_orders_mae: of the sums of bond orders.
    """

    epoch: int
    of: int
    loss: float
    forces_mae_meV_per_A: float
    forces_rmse_meV_per_A: float
    energy_mae_meV_per_atom: float
    energy_rmse_meV_per_atom: float
    stress_mae_GPa: float | None = None
    charges_mae_e: float | None = Field(None, exclude_if=_is_none)
    atomic_energies_mae_meV: float | None = Field(None, exclude_if=_is_none)
    bond_orders_mae: float | None = Field(None, exclude_if=_is_none)


class Learning(Form):
    """How a start model was kept from forgetting.

    Attributes:
        replay_weight: weight of replayed frames against labels; 0: none were replayed.
        replayed: number of replayed frames by origin. They are no labels.
        replay_labelled_by: what labelled them: `teacher` or `start model`; None: there were none.
        freeze: blocks of the start model that did not learn.
        lora_rank: rank of the adapters that learned in place of its weights; 0: there were none.
    """

    replay_weight: float
    replayed: dict[str, int]
    replay_labelled_by: Literal["teacher", "start model"] | None
    freeze: str
    lora_rank: int


class Metrics(File):
    """A training, and the model that it made. Files of early releases lack the key `schema`.

    Attributes:
        train: errors on the frames that were learned.
        validation: errors on the frames that chose the epoch.
        test: errors on frames used for nothing else; of a pre-training the validation frames.
        best_epoch: epoch whose weights were kept, from 1; 0 where a model file was taken as it is.
        e0s_eV: energy of each element in the model, eV, by atomic number.
        curve: the learning curve, an entry for each epoch.
        start: file of the model that was fine-tuned; None: random weights.
        seconds: wall time of the training, s, over all attempts.
        frames_without_label: frames that should have been learned but have no label; None in a
            pre-training.
        learning: what was replayed and what did not learn; None in a pre-training, and in files of
            early releases.
        forgetting: walls of the pre-trained model, or of the user's, and of this one; None where
            there is none to compare with, and in files of early releases.
        stress_weight: of the stress in the loss; 0 where no training label had one.
    """

    train: SetErrors
    validation: SetErrors
    test: SetErrors
    best_epoch: int
    e0s_eV: dict[int, float]
    curve: list[TrainingProgress]
    start: str | None
    seconds: float
    frames_without_label: int | None = None
    learning: Learning | None = None
    forgetting: Forgetting | None = None
    stress_weight: float = Field(
        0.0, description="Weight of the stress in the loss; 0: the model has not learned it."
    )
