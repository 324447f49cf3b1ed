"""What a second Hamiltonian says of the random frames of an exploration.

    from halcyon.exploration.opinions import judge_random_frames

    judged = judge_random_frames(reservoir, labelled, model, labeller, method="gfn1", number=200)
    judged[0].arrays["second_forces"]  # eV/Å, as the reference would have them

1. The Hamiltonian computes the frames and those that are labelled already; its results are in the
   label store, under its own level of theory, and are not computed again.
2. How its forces differ from the reference's is learned from the labels of earlier generations
   (`labels.second_opinion`). The audit's own labels teach nothing here: they measure.
3. Each frame gets the forces that the model predicts, and those that are expected of the reference.

Not for: how sure this makes the audit (`verdict.audit`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from halcyon.exploration.reservoir import in_turn
from halcyon.frames import structure_only
from halcyon.labels.labelling import Labeller
from halcyon.labels.reference.base import Status
from halcyon.labels.second_opinion import ForceDifference
from halcyon.models import mace

KEPT = ("replica", "temperature", "time", "draw")


def judge_random_frames(
    reservoir: Sequence[Atoms],
    labelled: Sequence[Atoms],
    model: torch.nn.Module,
    labeller: Labeller,
    *,
    method: str,
    number: int,
) -> list[Atoms]:
    """Ask a second Hamiltonian about random frames.

    Args:
        reservoir: random frames, with structure, temperature, replica and draw in `info`.
        labelled: good labels of earlier batches.
        model: that explored, as `mace.load` returns it.
        labeller: computes the second Hamiltonian.
        method: `gfn1` or `gfn2`, put on the frames.
        number: of frames of each structure and temperature; the audit's are the first of them.

    Returns:
        The frames, with status and message of the second Hamiltonian in `info`, and the arrays
        `model_forces` and, where it converged, `second_forces`.

    Raises:
        Interrupted: the labeller was asked to stop; what was computed is kept.
    """
    frames = [frame for group in in_turn(reservoir) for frame in group[:number]]
    if not frames:
        return []
    results = labeller.label([structure_only(frame) for frame in (*labelled, *frames)])
    of_labelled, of_frames = results[: len(labelled)], results[len(labelled) :]
    difference = ForceDifference.learn(labelled, [_forces(result) for result in of_labelled])
    judged = []
    for frame, result, predicted in zip(
        frames, of_frames, mace.evaluate(model, frames).forces, strict=True
    ):
        opinion = structure_only(frame)
        opinion.info |= {key: frame.info[key] for key in KEPT}
        opinion.info |= {key: result.info[key] for key in ("key", "status", "message", "seconds")}
        opinion.info["second_opinion"] = method
        opinion.arrays["model_forces"] = np.asarray(predicted, dtype=float)
        forces = _forces(result)
        if forces is not None:
            opinion.arrays["second_forces"] = difference.corrected(frame, forces)
        judged.append(opinion)
    return judged


def _forces(result: Atoms) -> np.ndarray | None:
    if result.info["status"] != Status.OK:
        return None
    forces: np.ndarray = result.arrays["forces"]
    return forces
