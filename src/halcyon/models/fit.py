"""What the stages pretrain and train share: fit a model, report progress, measure its errors.

    from pathlib import Path
    from halcyon.config import FitSettings, ModelSettings
    from halcyon.models.fit import fit
    from halcyon.models.training import Recipe

    settings = FitSettings(epochs=2, learning_rate=0.01)
    recipe = Recipe(elements=[1, 6, 8], model=ModelSettings(channels=8), fit=settings, seed=1)
    frames = {"train": train, "validation": held_out, "test": held_out}
    metrics = fit(frames, recipe, out=Path("new.model"), work=Path("work"), say=print)
    metrics.test.forces_mae_meV_per_A

Not for: the training loop (`training`), MACE itself (`mace`), or jobs and command lines: settings,
folders and callbacks come in as values.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from halcyon import files
from halcyon.config import ModelSettings, StructureSettings
from halcyon.frames import structure_key
from halcyon.models import drift, energy_zero, forgetting, mace, parity, training
from halcyon.models.drift import Drift
from halcyon.models.forgetting import Forgetting, Scan
from halcyon.models.metrics import Learning, Metrics, SetErrors, TrainingProgress
from halcyon.models.training import Callbacks, Recipe, Replay

SETS = ("train", "validation", "test")
LINES_OF_PROGRESS = 5
"""So many epochs of a training are reported, evenly spaced."""


def fit(
    frames: Mapping[str, Sequence[Atoms]],
    recipe: Recipe,
    *,
    out: Path,
    work: Path,
    say: Callable[[str], None],
    warn: Callable[[str], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
    replay: Replay | None = None,
    threads: int = 1,
) -> Metrics:
    """Fit a model, and measure its errors.

    Args:
        frames: labelled frames of the sets `train`, `validation` (they choose the best epoch) and
            `test` (used for nothing but the errors that are reported).
        recipe: what decides the model, besides its frames.
        out: the model file, written.
        work: folder for checkpoints.
        say: called with lines for people.
        warn: called where memory is short, or a training goes on; by default `say`.
        stopping: whether to save the state and stop.
        replay: frames not to be forgotten.
        threads: of torch.

    Raises:
        InputError: as `training.train`.
        Interrupted: `stopping` was true; the state is saved, and the next call goes on.
    """
    torch.set_num_threads(threads)
    every = max(1, recipe.fit.epochs_of(len(frames["train"])) // LINES_OF_PROGRESS)

    def progress(done: TrainingProgress) -> None:
        if done.epoch % every == 0:
            stress, charges = done.stress_mae_GPa, done.charges_mae_e
            say(
                f"epoch {done.epoch} of {done.of}: loss {done.loss:.3g}, "
                f"validation force MAE {done.forces_mae_meV_per_A:.0f} meV/Å, "
                f"energy MAE {done.energy_mae_meV_per_atom:.1f} meV/atom"
                + ("" if stress is None else f", stress MAE {stress:.2f} GPa")
                + ("" if charges is None else f", charges MAE {charges:.3f} e")
            )

    replayed = ""
    if replay:
        replayed = (
            f"{len(replay.frames)} labelled by the {replay.labelled_by} to replay with weight "
            f"{replay.weight:g}, "
        )
    say(
        f"{len(frames['train'])} frames to learn, {replayed}{len(frames['validation'])} for "
        f"validation, from {'random weights' if recipe.start is None else recipe.start.name}"
    )
    summary = training.train(
        frames["train"],
        frames["validation"],
        recipe,
        out=out,
        work=work,
        replay=replay,
        callbacks=Callbacks(progress=progress, stopping=stopping, say=warn or say),
    )
    model = mace.load(out, device=recipe.device, dtype=recipe.model.dtype)
    return Metrics(
        **_errors(model, frames),
        best_epoch=summary.best_epoch,
        e0s_eV=summary.e0s,
        curve=summary.epochs,
        start=None if recipe.start is None else str(recipe.start),
        seconds=summary.seconds,
        learning=Learning(
            replay_weight=replay.weight if replay else 0.0,
            replayed=Counter(f.info.get("origin", "") for f in replay.frames) if replay else {},
            replay_labelled_by=replay.labelled_by if replay else None,
            freeze=recipe.freeze,
            lora_rank=recipe.lora_rank,
        ),
        stress_weight=recipe.fit.weight_of_stress
        if any("stress" in frame.info for frame in frames["train"])
        else 0.0,
    )


def forgotten(start: Path, made: Path, scans: Sequence[Scan], *, device: str) -> Forgetting:
    """Walls of a start model and of the model that was made of it.

    Args:
        start: file of the start model.
        made: file of the fine-tuned one.
        scans: where to look, at least one.
        device: where models run.
    """
    frames = forgetting.frames_of(scans)
    # In the models' own precision: energies without those of the elements are a few eV.
    before, after = (
        [
            float(nodes.sum())
            for nodes in mace.evaluate(mace.load(path, device=device), frames).node_energy
        ]
        for path in (start, made)
    )
    return forgetting.compared(scans, before, after)


def adopt(
    start: Path,
    test: Sequence[Atoms],
    *,
    elements: Sequence[int],
    settings: ModelSettings,
    head: str | None,
    out: Path,
    device: str,
    say: Callable[[str], None],
) -> Metrics:
    """Take the model file that the user names instead of pre-training one.

    Its energy zero is moved to that of the frames: the file's own means nothing beside the force
    field's.

    Args:
        start: the model file.
        test: labelled frames for the errors that are reported.
        elements: atomic numbers to keep.
        settings: precision of the model.
        head: which head of the model to keep, where it has several.
        out: the model file, written.
        device: where errors are computed.
        say: called with a line for people.

    Returns:
        As `fit`, with an empty learning curve.

    Raises:
        InputError: the file does not suit.
    """
    model = mace.load_start(start, elements, dtype=settings.dtype, device="cpu", head=head)
    energy_zero.move_energy_zero(model, test)
    with files.replacing(out) as temporary:
        torch.save(model, temporary)
    say(f"{start}: {mace.described(model)}")
    written = mace.load(out, device=device, dtype=settings.dtype)
    return Metrics(
        **_errors(written, dict.fromkeys(SETS, test)),
        best_epoch=0,
        e0s_eV={},
        curve=[],
        start=str(start),
        seconds=0.0,
    )


def _errors(model: torch.nn.Module, frames: Mapping[str, Sequence[Atoms]]) -> dict[str, SetErrors]:
    return {name: set_errors(model, frames[name]) for name in SETS}


def set_errors(model: torch.nn.Module, frames: Sequence[Atoms]) -> SetErrors:
    """Errors of a model on labelled frames, at least one."""
    return SetErrors(**mace.errors(mace.evaluate(model, frames), frames), frames=len(frames))


def pretraining_frames(
    frames: Sequence[Atoms], structures: Mapping[str, StructureSettings], seed: Sequence[Atoms]
) -> list[Atoms]:
    """The teacher's frames that a model may learn: of structures that are pre-trained on.

    The seed is drawn from the teacher's frames. Those of its validation and test set are left out:
    a model that knows their geometries, though with other labels, is no longer judged by them.

    Args:
        frames: with `info` keys structure, charge and multiplicity.
        structures: settings of the system's structures by name.
        seed: its frames, with `info` keys key and split.
    """
    held_out = {atoms.info["key"] for atoms in seed if atoms.info["split"] != "train"}
    return [
        atoms
        for atoms in frames
        if structures[atoms.info["structure"]].pretrain and structure_key(atoms) not in held_out
    ]


def split(frames: Sequence[Atoms], fraction: float, *, seed: int) -> dict[str, list[Atoms]]:
    """Hold a part of the frames out for validation, and use it for the reported errors, too.

    Args:
        frames: at least two.
        fraction: part that is held out; one frame at least.
        seed: of the draw.

    Returns:
        The sets that `fit` takes, each in the order of the frames.
    """
    order = np.random.default_rng(seed).permutation(len(frames))
    held_out = max(1, round(len(frames) * fraction))
    validation = [frames[i] for i in sorted(order[:held_out])]
    train = [frames[i] for i in sorted(order[held_out:])]
    return {"train": train, "validation": validation, "test": validation}


def diagnose(
    model_file: Path,
    frames: Mapping[str, Sequence[Atoms]],
    recipe: Recipe,
    *,
    classes: Mapping[str, Sequence[str]],
    parity_file: Path,
    drift_file: Path,
) -> None:
    """Write how predictions compare with labels, and how far features of new frames drift.

    Args:
        model_file: the model.
        frames: labelled frames of the sets `train`, `validation` and `test`: predictions of
            `test` are compared with the labels, features of `validation` and `test` with those
            of `train`.
        recipe: device, precision, and the model that was fine-tuned, if any.
        classes: of each structure, the class of each atom.
        parity_file: Parquet, written; see `parity`.
        drift_file: JSON, written; see `drift`.
    """
    held_out = [*frames["validation"], *frames["test"]]

    def measured(path: Path) -> dict[str, drift.ClassDrift]:
        model = mace.load(path, device=recipe.device, dtype=recipe.model.dtype)
        learned, new = (
            drift.by_class(part, mace.evaluate(model, part).descriptors, classes)
            for part in (frames["train"], held_out)
        )
        return drift.compared(learned, new)

    Drift(
        frames=len(held_out),
        before=None if recipe.start is None else measured(recipe.start),
        after=measured(model_file),
    ).write(drift_file)
    model = mace.load(model_file, device=recipe.device, dtype=recipe.model.dtype)
    parity.write(parity_file, frames["test"], mace.evaluate(model, frames["test"]))
