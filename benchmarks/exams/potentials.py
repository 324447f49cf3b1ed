"""Potentials that the exams integrate: the campaign's reference as a batched model, and biases.

    from exams.potentials import ReferencePotential

    potential = ReferencePotential(campaign.reference(), start, settings, work)
    potential(state)["forces"]  # as those of a model

The reference's own dynamics are thus made by the very integrator, starts and random numbers that
the model's are made by, and differ in nothing but the forces.

Not for: labels that are kept (see `halcyon.labels`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch_sim.models.interface import ModelInterface

from ground_states import labelled
from halcyon.config import StructureSettings
from halcyon.exploration.bias import Metadynamics
from halcyon.labels import stress
from halcyon.labels.reference.base import Reference

DOUBLE = torch.float64


class ReferencePotential(ModelInterface):
    """A reference program as a model of torch-sim, one frame after another.

    Attributes:
        evaluations: single points so far.
        core_seconds: of all of them.
    """

    def __init__(
        self, reference: Reference, start: Atoms, settings: StructureSettings, work: Path
    ) -> None:
        """Keep the reference.

        Args:
            reference: the campaign's.
            start: elements, charge and multiplicity of every replica, and whether it is periodic.
            settings: of the structure: of several multiplicities the lowest energy counts.
            work: folder for its scratch files.
        """
        super().__init__()
        self._device, self._dtype = torch.device("cpu"), DOUBLE
        self._compute_forces, self._compute_stress = True, False
        self._reference, self._start, self._work = reference, start, work
        self._structures = {start.info["structure"]: settings}
        self.evaluations, self.core_seconds = 0, 0.0

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        """Energies (R,), eV, and forces (N, 3), eV/Å; NaN where the reference gave no label."""
        energies, forces = torch.full((state.n_systems,), torch.nan, dtype=DOUBLE), []
        for number in range(state.n_systems):
            frame = self._start.copy()
            frame.positions = state.positions[state.system_idx == number].numpy()
            forces.append(np.full((len(frame), 3), np.nan))
            if not np.isfinite(frame.positions).all():
                continue  # it failed at the step before
            (record,) = labelled(self._reference, [frame], self._structures, self._work)
            self.evaluations += 1
            self.core_seconds += record.core_seconds
            if record.energy is not None and record.forces is not None:
                energies[number], forces[number] = record.energy, record.forces
        return {"energy": energies, "forces": torch.as_tensor(np.concatenate(forces))}


class Biased(ModelInterface):
    """A potential, and the hills of metadynamics where there are any.

    Attributes:
        output: of the last call, without the bias.
        bias: None: there is none.
    """

    def __init__(self, potential: ModelInterface) -> None:
        """Begin without a bias."""
        super().__init__()
        self._device, self._dtype = potential.device, potential.dtype
        self._compute_forces, self._compute_stress = True, potential.compute_stress
        self.potential = potential
        self.bias: Metadynamics | None = None
        self.output: dict[str, torch.Tensor] = {}

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        """What the potential gives, its forces with the bias's."""
        self.output = self.potential(state)
        if self.bias is None:
            return self.output
        forces = self.bias.forces(state.positions)[1]
        return self.output | {"forces": self.output["forces"] + forces}


def pressures(reference: Reference, frames: Sequence[Atoms], work: Path) -> list[float]:
    """Pressure of frames by the reference, without the kinetic part, GPa; NaN without a label."""
    return [
        float("nan") if record.stress is None else stress.pressure(record.stress)
        for record in reference.label(frames, work, 1)
    ]
