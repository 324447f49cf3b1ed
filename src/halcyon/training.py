"""What the pretrain and train stages share: fit, show progress, measure errors, keep the curve.

Not for: MACE itself (`mace_model`).
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

from halcyon import mace_model, mace_training, stage
from halcyon.config import FitSettings
from halcyon.errors import Interrupted


def fit(
    job: stage.Job,
    train: Sequence[Atoms],
    validation: Sequence[Atoms],
    *,
    test: Sequence[Atoms],
    settings: FitSettings,
    start: Path | None,
) -> dict[str, Any]:
    """Fit a model to `job.arguments.model`.

    Args:
        job: gives sizes, seed, threads and a voice.
        train: labelled frames to learn.
        validation: labelled frames that choose the best epoch.
        test: labelled frames for the errors that are reported.
        settings: epochs and so on.
        start: model to fine-tune; None: random weights.

    Returns:
        Learning curve, errors on all three sets, E0s: plain JSON values.

    Raises:
        Interrupted: asked to stop.
    """
    torch.set_num_threads(job.arguments.threads)
    device = job.plan.settings.resources.device
    tenth = max(1, settings.epochs // 5)

    def progress(epoch: mace_training.Progress) -> None:
        if job.stopping():
            raise Interrupted(f"stopped in epoch {epoch.epoch} of {epoch.of}")
        if epoch.epoch % tenth == 0:
            job.say(
                f"epoch {epoch.epoch} of {epoch.of}: loss {epoch.loss:.3g}, "
                f"validation force MAE {epoch.forces_mae_meV_per_A:.0f} meV/Å, "
                f"energy MAE {epoch.energy_mae_meV_per_atom:.1f} meV/atom"
            )

    start_word = "random weights" if start is None else start.name
    job.say(f"{len(train)} frames to learn, {len(validation)} held out, from {start_word}")
    summary = mace_training.train(
        train,
        validation,
        elements=job.plan.elements,
        model=job.plan.settings.model,
        fit=settings,
        start=start,
        out=job.arguments.model,
        work=job.folder,
        seed=job.seed("fit"),
        device=device,
        progress=progress,
    )
    model = mace_model.load(job.arguments.model, device=device, dtype=job.plan.settings.model.dtype)
    sets = {"train": train, "validation": validation, "test": test}
    return {
        name: mace_model.errors(mace_model.evaluate(model, frames, device=device), frames)
        | {"frames": len(frames)}
        for name, frames in sets.items()
    } | {
        "best_epoch": summary.best_epoch,
        "e0s_eV": summary.e0s,
        "curve": [asdict(epoch) for epoch in summary.epochs],
        "start": None if start is None else str(start),
        "seconds": summary.seconds,
    }
