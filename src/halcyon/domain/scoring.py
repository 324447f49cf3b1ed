"""What a domain says of frames: raw distances by all its signals, and expected force errors.

    from halcyon.domain.scoring import scores_of

    values = scores_of(candidates, domain)  # of each frame
    values[0]["distance_latent"]  # shape (N,), in radii
    values[0]["expected_error"]  # shape (N,), eV/Å

Not for: the steps of dynamics (see `signals`), whose scores these are, by the same code.
"""

from collections.abc import Sequence

import numpy as np

from halcyon.domain.calibration import device_of, distances_of_atoms
from halcyon.domain.intervals import Domain
from halcyon.domain.samples import Sample
from halcyon.domain.signals import TIERS, ExpectedError, Model, make_signal


def scores_of(
    sample: Sample, domain: Domain, committee: Sequence[Model] = ()
) -> list[dict[str, np.ndarray]]:
    """Values of the atoms of frames, under their names in `frames.PER_ATOM`.

    Args:
        sample: any number of frames, with what the model predicts for them.
        domain: of that model.
        committee: the other models of the signal `committee`; without them it is left out.

    Returns:
        Per frame of N atoms: `distance_<signal>` of each signal that the domain knows, and, where
        it has expected errors, `expected_error`, eV/Å; shape (N,) each.

    Raises:
        InputError: `committee` decides, and there are no models.
    """
    device = device_of(committee)
    names = [name for name in (*TIERS, *domain.signals) if name != "committee" or committee]
    signals = {f"distance_{name}": make_signal(domain, name, committee) for name in names}
    if domain.expected:
        signals["expected_error"] = ExpectedError(domain, committee)
    values = {name: distances_of_atoms(of, sample, device) for name, of in signals.items()}
    return [
        {name: per_frame[i] for name, per_frame in values.items()}
        for i in range(len(sample.frames))
    ]
