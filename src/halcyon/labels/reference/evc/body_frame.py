"""A molecule turned into the orientation of a reference, and gradients turned back.

Atomic orbitals with a direction (p, d …) point along the axes of the laboratory. Coefficients in
terms of them mean the same at two geometries only if the molecule stands in the same way. So each
geometry is moved to the rotation that brings it nearest to a reference (W. Kabsch, Acta Cryst. A
32, 922, 1976), weighted by nuclear charges.

    import numpy as np
    from halcyon.labels.reference.evc.body_frame import BodyFrame

    water = np.array([[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.0, -0.8, -0.5]])
    frame = BodyFrame(water, weights=np.array([8.0, 1.0, 1.0]))
    placed = frame.placed(water + 0.1)
    placed.positions  # the molecule's centre at the origin

Not for: periodic frames.
"""

from dataclasses import dataclass

import numpy as np

LINEAR = 1e-3
"""A third axis whose part in the orientation is smaller than this, of the largest, is undefined."""


@dataclass(frozen=True)
class Placed:
    """A geometry in the body's frame."""

    positions: np.ndarray
    """(N, 3), Å."""
    rotation: np.ndarray
    """(3, 3): from a row vector of the laboratory to one of the body by multiplication."""


class BodyFrame:
    """The orientation of a reference geometry."""

    def __init__(self, reference: np.ndarray, *, weights: np.ndarray) -> None:
        """Take the orientation of `reference` (N, 3), with the weights (N,) of its atoms."""
        self._weights = weights / weights.sum()
        self.reference = reference - self._weights @ reference

    def placed(self, positions: np.ndarray) -> Placed:
        """Move positions (N, 3) to the orientation nearest to the reference's."""
        centred = positions - self._weights @ positions
        left, _, right = np.linalg.svd((centred * self._weights[:, None]).T @ self.reference)
        sign = np.sign(np.linalg.det(left @ right))
        rotation = left @ np.diag([1.0, 1.0, sign]) @ right
        return Placed(centred @ rotation, rotation)

    def defined(self, positions: np.ndarray) -> bool:
        """Whether small displacements turn the frame by small angles only.

        That is not so for atoms on a line, unless all geometries are on it, and nothing turns.
        """
        if len(positions) <= 2:
            return True
        values = np.linalg.eigvalsh(self._stiffness(self.placed(positions).positions))
        return bool(values[0] > LINEAR * values[2])

    def turned_back(self, placed: Placed, gradient: np.ndarray) -> np.ndarray:
        """From the gradient (N, 3) in the body's frame to that by positions of the laboratory.

        An energy that is not invariant in the body's frame changes as displacements turn it.
        Displacements δx turn the frame by ω with M ω = −Σ w r × δx, M = Σ w [(r·x) 1 − x rᵀ],
        which follows from the condition of the orientation, Σ w r × x = 0; r is the reference.
        """
        torque = np.cross(placed.positions, gradient).sum(0)
        turning = np.linalg.pinv(self._stiffness(placed.positions), rcond=1e-9) @ torque
        inner = gradient - self._weights[:, None] * np.cross(turning, self.reference)
        # The centre is taken off: a shift of all atoms changes nothing.
        inner -= self._weights[:, None] * inner.sum(0)
        return inner @ placed.rotation.T

    def _stiffness(self, positions: np.ndarray) -> np.ndarray:
        """M, symmetric where `positions` (N, 3) are in the body's frame."""
        weighted = self._weights[:, None] * self.reference
        matrix = np.eye(3) * np.sum(weighted * positions) - positions.T @ weighted
        return (matrix + matrix.T) / 2
