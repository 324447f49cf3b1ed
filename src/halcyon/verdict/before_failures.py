"""Was the model wrong where its replicas failed, or would the reference have done the same?

    from pathlib import Path
    from halcyon.config import Settings
    from halcyon.verdict.before_failures import before_failures, too_strict
    from halcyon.verdict.runs import read_run

    before = before_failures(frames, generation=1)
    run = read_run(Path("results/quickstart/ethanol/gen001"))
    too_strict(run.replicas, before, Settings())  # forces are right on 18 labelled frames shortly …

A criterion of failure is a guess: that no bond of a molecule gets so long. Soft bonds do, in the
reference's own dynamics, and then a campaign would go on for ever with a model that is right.

Not for: random frames (`audit`), or what a failure is (`domain.failures`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from ase import Atoms

from halcyon.config import Settings
from halcyon.verdict.audit import MOST_BAD, computed, usable
from halcyon.verdict.forms import BeforeFailures, Ended
from halcyon.wording import significant

BEFORE_FAILURE = "before failure"
"""`reason` of the frames shortly before a failure."""
CRITERIA = {"bond broken": "bond_stretch_A"}
"""Reason of a failure → the setting of `exploration` that says what one is."""
FEWEST_FRAMES = 3
FEWEST_REPLICAS = 2


def before_failures(frames: Iterable[Atoms], generation: int) -> BeforeFailures | None:
    """Errors on a generation's labelled frames shortly before failures; None: there are none.

    Args:
        frames: of label files, whatever became of their labels, with status, reason, generation
            and replica in `info`; where the label is good, arrays forces and `model_forces`,
            (N, 3), eV/Å.
        generation: counted from 0.
    """
    tried = [
        frame
        for frame in frames
        if frame.info.get("reason") == BEFORE_FAILURE
        and frame.info.get("generation") == generation
        and computed(frame)
    ]
    good = [frame for frame in tried if usable(frame)]
    if not good:
        return None
    errors = [frame.arrays["model_forces"] - frame.arrays["forces"] for frame in good]
    return BeforeFailures(
        frames=len(good),
        bad=len(tried) - len(good),
        replicas=len({frame.info["replica"] for frame in good}),
        forces_mae_meV_per_A=1000 * float(np.mean([np.abs(error).mean() for error in errors])),
        atom_error_eV_per_A=max(float(np.linalg.norm(e, axis=1).max()) for e in errors),
    )


def too_strict(replicas: Sequence[Ended], before: BeforeFailures | None, settings: Settings) -> str:
    """That a criterion of failure may be stricter than the reference is; empty: nothing says so.

    Forces are right shortly before failures when they are as right as is asked of random frames,
    and no atom's is as wrong as an unreliable one's. Where many such frames have no label, those
    that have one may be the easy ones, and nothing is said.

    Args:
        replicas: how each ended.
        before: of the same generation.
        settings: goals of the accuracy, and the criteria.
    """
    reasons = Counter(end.failure for end in replicas if end.failure is not None)
    if before is None or not reasons:
        return ""
    most, _ = reasons.most_common(1)[0]
    goal = settings.accuracy.forces_mae_meV_per_A
    enough = before.frames >= FEWEST_FRAMES and before.replicas >= FEWEST_REPLICAS
    enough &= before.bad <= MOST_BAD * (before.frames + before.bad)
    right = goal is None or before.forces_mae_meV_per_A <= goal
    right &= before.atom_error_eV_per_A <= settings.accuracy.atom_force_eV_per_A
    if most not in CRITERIA or not enough or not right:
        return ""
    key = CRITERIA[most]
    return (
        f"forces are right on {before.frames} labelled frames shortly before failures "
        f"({significant(before.forces_mae_meV_per_A)} meV/Å, no atom off by over "
        f"{significant(before.atom_error_eV_per_A)} eV/Å): if the reference does this, too, it is "
        f"no failure: raise exploration.{key} over {getattr(settings.exploration, key):g}"
    )
