"""What the pretrain and train stages share: fit, show progress, measure errors, keep the curve.

Not for: the training loop (`mace_training`), or MACE itself (`mace_model`).
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

from halcyon import files
from halcyon.campaign import stage
from halcyon.config import FitSettings
from halcyon.errors import InputError
from halcyon.models import drift, mace, parity, training


def fit(
    job: stage.Job,
    train: Sequence[Atoms],
    validation: Sequence[Atoms],
    *,
    test: Sequence[Atoms],
    settings: FitSettings,
    start: Path | None,
    replay: Sequence[Atoms] = (),
    replay_weight: float = 0.0,
) -> dict[str, Any]:
    """Fit a model to `job.arguments.model`, or go on with it.

    Args:
        job: gives sizes, seed, threads and a voice.
        train: labelled frames to learn.
        validation: labelled frames that choose the best epoch.
        test: labelled frames for the errors that are reported.
        settings: epochs and so on.
        start: model to fine-tune; None: random weights.
        replay: as for `mace_training.train`.
        replay_weight: likewise.

    Returns:
        Learning curve, errors on all three sets, E0s: plain JSON values.

    Raises:
        Interrupted: asked to stop; the state is saved.
    """
    torch.set_num_threads(job.arguments.threads)
    often = max(1, settings.epochs_of(len(train)) // 5)

    def progress(epoch: training.Progress) -> None:
        if epoch.epoch % often == 0:
            job.say(
                f"epoch {epoch.epoch} of {epoch.of}: loss {epoch.loss:.3g}, "
                f"validation force MAE {epoch.forces_mae_meV_per_A:.0f} meV/Å, "
                f"energy MAE {epoch.energy_mae_meV_per_atom:.1f} meV/atom"
            )

    start_word = "random weights" if start is None else start.name
    also = f", {len(replay)} of the teacher beside them" if replay else ""
    job.say(f"{len(train)} frames to learn{also}, {len(validation)} held out, from {start_word}")
    summary = training.train(
        train,
        validation,
        elements=job.plan.elements,
        model=job.plan.settings.model,
        fit=settings,
        start=start,
        out=job.arguments.model,
        work=job.folder,
        seed=job.seed("fit"),
        device=job.plan.settings.resources.device,
        replay=replay,
        replay_weight=replay_weight,
        progress=progress,
        stopping=job.stopping,
        say=lambda text: job.say(text, style="yellow"),
    )
    sets = {"train": train, "validation": validation, "test": test}
    return errors_of(job, sets) | {
        "best_epoch": summary.best_epoch,
        "e0s_eV": summary.e0s,
        "curve": [asdict(epoch) for epoch in summary.epochs],
        "start": None if start is None else str(start),
        "seconds": summary.seconds,
    }


def adopt(job: stage.Job, test: Sequence[Atoms]) -> dict[str, Any]:
    """Take the model file that the user names instead of pre-training one.

    Args:
        job: names the file; its settings say which head and elements to keep.
        test: labelled frames for the errors that are reported.

    Returns:
        As `fit`, with an empty learning curve.

    Raises:
        InputError: the file does not suit.
    """
    settings = job.plan.settings
    start = settings.pretraining.start
    if start is None:
        raise InputError("pretraining.start is missing: expected a model file")
    model = mace.load_start(
        start,
        job.plan.elements,
        dtype=settings.model.dtype,
        device="cpu",
        head=settings.pretraining.start_head,
    )
    mace.move_energy_zero(model, test)  # its own says nothing beside the force field's
    with files.replacing(job.arguments.model) as temporary:
        torch.save(model, temporary)
    job.say(f"{start}: {mace.described(model)}")
    sets = dict.fromkeys(("train", "validation", "test"), test)
    return errors_of(job, sets) | {
        "best_epoch": 0,
        "e0s_eV": {},
        "curve": [],
        "start": str(start),
        "seconds": 0.0,
    }


def errors_of(job: stage.Job, sets: dict[str, Sequence[Atoms]]) -> dict[str, Any]:
    """Errors of `job.arguments.model` on sets of frames."""
    device = job.plan.settings.resources.device
    model = mace.load(job.arguments.model, device=device, dtype=job.plan.settings.model.dtype)
    return {
        name: mace.errors(mace.evaluate(model, frames), frames) | {"frames": len(frames)}
        for name, frames in sets.items()
    }


def diagnose(
    job: stage.Job,
    train: Sequence[Atoms],
    held_out: Sequence[Atoms],
    test: Sequence[Atoms],
    *,
    start: Path | None,
    parity_file: Path,
    drift_file: Path,
) -> None:
    """Write how predictions compare with labels, and how far features of new frames drift.

    Args:
        job: gives the model, `job.arguments.model`.
        train: labelled frames that it has learned.
        held_out: labelled frames that it has not: their features are compared.
        test: labelled frames whose predictions are compared.
        start: the model that it was fine-tuned from, if any: compared with it.
        parity_file: Parquet, written; see `parity`.
        drift_file: JSON, written; see `drift`.
    """
    settings = job.plan.settings
    device, dtype = settings.resources.device, settings.model.dtype
    classes = {name: job.plan.classes(name) for name in job.plan.structures}
    found: dict[str, Any] = {"schema": drift.SCHEMA, "frames": len(held_out)}
    for word, path in (("before", start), ("after", job.arguments.model)):
        if path is None:
            found[word] = None
            continue
        model = mace.load(path, device=device, dtype=dtype)
        known, new = (
            drift.by_class(frames, mace.evaluate(model, frames).descriptors, classes)
            for frames in (train, held_out)
        )
        found[word] = drift.compared(known, new)
    files.write_json(drift_file, found)
    parity.write(parity_file, test, mace.evaluate(model, test))
