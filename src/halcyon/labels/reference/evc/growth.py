"""Training states added where the interpolation is wrong, until it is right on frames not tried.

Frames are drawn at random and their exact states are computed: what the interpolation is off by on
each is known then. The worst becomes a training state, and so on, until all that were drawn are
within the tolerance. Then new ones are drawn: if they are within it at once, the set is done, and
their errors, which nothing was chosen by, are reported.

    from ase import Atoms
    from halcyon.labels.reference.evc.growth import Effort, grow

    pairs = [Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 0.02 * i]]) for i in range(20)]
    grown = grow(pairs, "6-31g", Effort(tolerance_meV=1.0), seed=1)
    grown.converged  # True

Not for: where frames come from (`halcyon states`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.units import Hartree

from halcyon.errors import InputError
from halcyon.labels.reference.evc import full_ci
from halcyon.labels.reference.evc.continuation import Continuation
from halcyon.labels.reference.evc.full_ci import State
from halcyon.labels.reference.evc.integrals import molecule_of


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How far a set of training states grows."""

    tolerance_meV: float = 1.0
    """Largest error of energies on a batch of new frames, meV per molecule."""
    most_states: int = 40
    batch: int = 5
    """Frames whose exact states are computed at once."""
    max_determinants: int = 2_000_000


@dataclass(frozen=True)
class Known:
    """A frame whose exact state is known."""

    frame: Atoms
    state: State


@dataclass(frozen=True)
class Grown:
    """A set of training states, and how wrong it is."""

    continuation: Continuation
    converged: bool
    """Whether the last batch was within the tolerance before anything was chosen by it."""
    exact_calculations: int
    errors_meV: list[float]
    """Of energies, on the frames of the last batch, before anything was chosen by them."""
    forces_rmse_meV_per_A: float
    """Of the same frames."""
    history: list[dict[str, float]] = field(default_factory=list)
    """After each batch: training states, exact calculations, largest error on it, meV."""


def grow(
    frames: Sequence[Atoms],
    basis: str,
    effort: Effort,
    *,
    seed: int,
    say: Callable[[str], None] = lambda _line: None,
) -> Grown:
    """Make a set of training states for the geometries that `frames` are examples of.

    Args:
        frames: of one molecule, with `info` keys charge and multiplicity; the first is the first
            training geometry, and gives the orientation.
        basis: PySCF's name of a basis set.
        effort: when to stop.
        seed: of the order in which frames are drawn.
        say: called with a line of progress.

    Raises:
        InputError: the basis or the molecule cannot be used, a state did not converge, or there
            are too few frames.
    """
    continuation = Continuation.begin(frames[0], basis)
    full_ci.refuse_too_many(molecule_of(frames[0], basis), effort.max_determinants)
    for number, frame in enumerate(frames):
        if fault := continuation.fault(frame):
            raise InputError(f"frame {number}: {fault}")
    continuation = continuation.with_states(frames[0], continuation.exact(frames[0]))
    order = [1 + int(i) for i in np.random.default_rng(seed).permutation(len(frames) - 1)]
    known: list[Known] = []
    history: list[dict[str, float]] = []
    calculations = 1
    while True:
        batch = [frames[order.pop()] for _ in range(min(effort.batch, len(order)))]
        if not batch:
            raise InputError(
                f"{len(frames)} frames, and all were used: {len(continuation.energies)} training "
                f"states are not within {effort.tolerance_meV:g} meV. Give more frames, or a "
                "larger tolerance"
            )
        new = [Known(frame, continuation.exact(frame)[0]) for frame in batch]
        calculations += len(new)
        errors = [error_meV(continuation, each) for each in new]
        forces_rmse = _forces_rmse(continuation, new)
        converged = max(errors) <= effort.tolerance_meV
        history.append(
            {
                "training_states": len(continuation.energies),
                "exact_calculations": calculations,
                "largest_error_meV": max(errors),
            }
        )
        say(
            f"{len(continuation.energies)} training states: energies of {len(new)} new frames off "
            f"by at most {max(errors):.3g} meV (mean {np.mean(errors):.3g}), forces by "
            f"{forces_rmse:.3g} meV/Å; {calculations} exact calculations"
        )
        if converged or len(continuation.energies) >= effort.most_states:
            return Grown(continuation, converged, calculations, errors, forces_rmse, history)
        known += new
        while known and len(continuation.energies) < effort.most_states:
            by_frame = [error_meV(continuation, each) for each in known]
            worst = int(np.argmax(by_frame))
            if by_frame[worst] <= effort.tolerance_meV:
                break
            chosen = known.pop(worst)
            continuation = continuation.with_states(chosen.frame, [chosen.state])


def error_meV(continuation: Continuation, known: Known) -> float:  # noqa: N802 (the unit)
    """How far the interpolated energy is above the exact one, meV."""
    return 1000 * (continuation.energy(known.frame) - known.state.energy * Hartree)


def _forces_rmse(continuation: Continuation, known: Sequence[Known]) -> float:
    """Root-mean-square error of force components, meV/Å."""
    differences = [
        continuation.results(each.frame)[0].forces - continuation.forces_of(each.frame, each.state)
        for each in known
    ]
    return 1000 * float(np.sqrt(np.mean(np.square(differences))))
