"""What drives replicas over barriers: a temperature ramp, or well-tempered metadynamics.

Metadynamics (A. Barducci, G. Bussi, M. Parrinello, Phys. Rev. Lett. 100, 020603, 2008) adds, every
`pace_fs`, a Gaussian hill at the present values s of one or two collective variables, so that a
replica is pushed away from where it has been. A hill's height is w exp(-V(s) / ((γ - 1) kT)), with
V the bias so far: hills shrink where many lie already, and V tends to -(1 - 1/γ) F, with F the free
energy.

    from halcyon.exploration.bias import Metadynamics

    bias = Metadynamics(starts, temperatures_K, settings.bias, device=device)
    energy, forces = bias.forces(positions)  # at every step; add `forces` to the model's
    bias.deposit(positions)  # every `pace_fs`

Each replica has hills of its own (no multiple walkers): shared hills would couple the replicas,
and all statistics of the CLI count replicas as independent.

Not for: free energies to publish (no reweighting, no error bars), variables beyond these three
(PLUMED has them), or cells that change.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms, units

from halcyon.config import (
    CoordinationVariable,
    DistanceVariable,
    MetadynamicsBias,
    RampBias,
    TorsionVariable,
    VariableSettings,
)
from halcyon.domain.pairs import Pairs
from halcyon.errors import InputError

FULL_TURN = 360.0
FEWEST_HILLS = 32
"""Room for hills at first; it doubles whenever it is full."""
LEAST_SINE = 0.05
"""Sine of an angle in a torsion's chain at the start, under which (3°) the chain is collinear."""

State = dict[str, torch.Tensor]
"""Hills of one replica: `centers`, shape (its variables, hills), in Å, 1 or degrees; `heights`,
shape (hills,), eV; float64."""


def ramped(
    settings: RampBias,
    temperatures_K: torch.Tensor,
    time_ps: float | torch.Tensor,
    *,
    run_ps: float,
) -> torch.Tensor:
    """Thermostat temperatures during a ramp, linear in time and constant after it.

    Args:
        settings: of the ramp.
        temperatures_K: temperature at which the ramp of each of R replicas starts, shape (R,), K.
        time_ps: time since the replicas' starts, ps; a number, or shape (R,).
        run_ps: duration of the run, ps; the ramp takes as long, unless its settings say how long.

    Returns:
        Shape (R,), K.
    """
    fraction = time_ps / (settings.time_ps or run_ps)
    if isinstance(fraction, torch.Tensor):
        fraction = fraction.clamp(0, 1).to(temperatures_K)
    else:
        fraction = min(max(fraction, 0.0), 1.0)
    return temperatures_K + fraction * (settings.to_K - temperatures_K)


def check_variables(settings: MetadynamicsBias, start: Atoms, source: str) -> None:
    """Check that the collective variables can be computed for a start structure.

    Args:
        settings: with the variables.
        start: start structure, its name in `info["structure"]`.
        source: file that messages name.

    Raises:
        InputError: a variable names an atom that the structure lacks, or a torsion whose atoms lie
            on a line.
    """
    faults = []
    for i, variable in enumerate(settings.variables):
        if not _belongs(variable, start):
            continue
        key = f"{source}: exploration.bias.variables.{i}"
        name = start.info["structure"]
        if missing := [atom for atom in variable.all_atoms if atom >= len(start)]:
            faults.append(
                f"{key}: structure {name} has no atom {', '.join(map(str, missing))}: expected 0 "
                f"to {len(start) - 1}"
            )
        elif isinstance(variable, TorsionVariable) and _least_sine(variable, start) < LEAST_SINE:
            faults.append(
                f"{key}.atoms = {variable.all_atoms}: three of them lie on a line in structure "
                f"{name}, where a torsion is not defined: expected a bent chain"
            )
    if faults:
        raise InputError("\n".join(faults))


def _belongs(variable: VariableSettings, start: Atoms) -> bool:
    return variable.structure in (None, start.info["structure"])


def _least_sine(variable: TorsionVariable, start: Atoms) -> float:
    """Least sine of the two angles in a torsion's chain; 0 where atoms coincide."""
    i, j, k, l = variable.atoms  # noqa: E741 - as torsions are written
    with np.errstate(invalid="ignore"):
        angles = start.get_angles([[i, j, k], [j, k, l]], mic=start.pbc.any())
    return float(np.nan_to_num(np.sin(np.deg2rad(angles))).min())


class Metadynamics:
    """Hills of R replicas, N atoms in all, and the forces from them.

    `forces`, `deposit` and `values` take the positions of all atoms, shape (N, 3), Å. They make no
    transfer and do not wait for the device. All numbers are float64, since a hill is small beside
    the sum of all. Hills are summed one by one, without a grid: this is exact and has no limits of
    range, but time and memory grow with hills × replicas.

    Cost of `forces` on one core: 0.2–0.3 ms for 8 replicas of a molecule with up to 1000 hills,
    1 ms with 10 000, 9 ms for 64 such replicas; a coordination number of 64 atoms to 64 others, 8
    replicas, 2.5 ms. `deposit` costs up to twice as much, once per `pace_fs`. (A forward pass of
    ethanol × 8 costs 9–12 ms.)
    """

    def __init__(
        self,
        starts: Sequence[Atoms],
        temperatures_K: Sequence[float],
        settings: MetadynamicsBias,
        *,
        device: torch.device,
        states: Sequence[State | None] | None = None,
    ) -> None:
        """Prepare the variables, and take over hills.

        Args:
            starts: a frame of each replica, in the order of the positions, its structure's name in
                `info["structure"]`; cells stay as they are in these frames.
            temperatures_K: temperature of each replica's thermostat, K.
            settings: variables and hills; checked by `check_variables`.
            device: of positions.
            states: hills of each replica, as `take` gave them; None for a replica without hills.
                By default no replica has hills.
        """
        self.starts = list(starts)
        self.temperatures_K = list(temperatures_K)
        self.settings = settings
        self.device = device
        self._variables = _Variables(self.starts, settings.variables, device)
        widths = self._variables.sigma
        self._inverse_sigma = torch.where(self._variables.present, 1 / widths, 0.0)
        # (γ - 1) kT of each replica, eV.
        self._tempering = (settings.bias_factor - 1) * units.kB * self._float(self.temperatures_K)
        self._first_height = settings.height_eV * self._variables.present.any(dim=1).double()
        self._load(states or [None] * len(self.starts))

    def _float(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float64, device=self.device)

    def _load(self, states: Sequence[State | None]) -> None:
        """Put the hills of all replicas into one array, aligned at the last hill of each."""
        n_replicas, n_columns = self._variables.present.shape
        self._hills = [0 if state is None else len(state["heights"]) for state in states]
        self._used = max(self._hills, default=0)
        room = max(FEWEST_HILLS, 1 << self._used.bit_length())
        self._centers = self._zeros(n_replicas, n_columns, room)
        self._heights = self._zeros(n_replicas, room)
        for i, (state, hills) in enumerate(zip(states, self._hills, strict=True)):
            if state is not None:
                of_replica = slice(self._used - hills, self._used)
                columns = self._variables.columns[i]
                self._centers[i, :columns, of_replica] = state["centers"].to(self.device)
                self._heights[i, of_replica] = state["heights"].to(self.device)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def values(self, positions: torch.Tensor) -> torch.Tensor:
        """Collective variables.

        Returns:
            Shape (R, D), in the order of the settings, with D (0 to 2) the greatest number of
            variables of a replica; Å, 1 or degrees (-180 to 180). NaN where a replica has fewer.
        """
        with torch.no_grad():
            values = self._variables(positions.double())
            return torch.where(self._variables.present, values, torch.nan)

    def forces(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energy and forces of the bias.

        Returns:
            Energies, shape (R,), eV, float64; forces, shape (N, 3), eV/Å, in the precision of the
            positions. Both are zero for replicas without variables, and not finite where a
            replica's positions are not.
        """
        if not self._used or not self._variables.any:
            return self._zeros(len(self.starts)), torch.zeros_like(positions)
        with torch.enable_grad():
            free = positions.detach().double().requires_grad_()
            values = self._variables(free)
        energy, slope = self._potential(values.detach())
        (gradient,) = torch.autograd.grad(values, free, grad_outputs=slope)
        return energy, -gradient.to(positions.dtype)

    def deposit(self, positions: torch.Tensor) -> None:
        """Add a hill to each replica that has variables, at their present values."""
        if not self._variables.any:
            return
        with torch.no_grad():
            values = self._variables(positions.double())
            energy, _ = self._potential(values)
            if self._used == self._heights.shape[1]:
                self._centers = torch.cat([self._centers, torch.zeros_like(self._centers)], dim=2)
                self._heights = torch.cat([self._heights, torch.zeros_like(self._heights)], dim=1)
            self._centers[:, :, self._used] = values
            self._heights[:, self._used] = self._first_height * torch.exp(-energy / self._tempering)
        self._used += 1
        self._hills = [hills + 1 for hills in self._hills]

    def _potential(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bias at given variables, shape (R,), eV, and its slope in them, shape (R, D)."""
        # In place: with thousands of hills, most of the time would be spent on fresh memory.
        scaled = values.unsqueeze(2) - self._centers[:, :, : self._used]
        self._variables.shorten_(scaled).mul_(self._inverse_sigma.unsqueeze(2))
        hills = scaled.square().sum(dim=1).mul_(-0.5).exp_().mul_(self._heights[:, : self._used])
        slope = -torch.bmm(scaled, hills.unsqueeze(2)).squeeze(2) * self._inverse_sigma
        return hills.sum(dim=1), slope

    def take(self, i: int) -> State:
        """Hills of the replica at a place, for the `states` of another `Metadynamics`."""
        of_replica = slice(self._used - self._hills[i], self._used)
        return {
            "centers": self._centers[i, : self._variables.columns[i], of_replica].clone(),
            "heights": self._heights[i, of_replica].clone(),
        }

    def keep(self, kept: Sequence[int]) -> None:
        """Drop all replicas but those at these places, in the order given."""
        states = [self.take(i) for i in kept]
        Metadynamics.__init__(
            self,
            [self.starts[i] for i in kept],
            [self.temperatures_K[i] for i in kept],
            self.settings,
            device=self.device,
            states=states,
        )

    def state(self) -> list[State]:
        """What a checkpoint must hold: the hills of each replica."""
        return [self.take(i) for i in range(len(self.starts))]

    def restore(self, state: Sequence[State | None]) -> None:
        """Go on from what `state` gave, for the same replicas in the same order."""
        self._load(state)


class _Variables:
    """Collective variables of R replicas, in a table of replicas × columns.

    Attributes:
        columns: number of variables of each replica.
        any: whether any replica has a variable.
        present: which entries of the table are variables, shape (R, D).
        sigma: widths of their hills, shape (R, D); 1 where there is no variable.
    """

    def __init__(
        self, starts: Sequence[Atoms], variables: Sequence[VariableSettings], device: torch.device
    ) -> None:
        variables_of = [[v for v in variables if _belongs(v, start)] for start in starts]
        self.columns = [len(own) for own in variables_of]
        self.any = any(self.columns)
        self._shape = len(starts), max(self.columns, default=0)
        pairs = [[pair for variable in own for pair in _pairs_of(variable)] for own in variables_of]
        starts = [_reduced(start) for start in starts]
        self._pairs = Pairs(starts, [np.array(own, int).reshape(-1, 2).T for own in pairs], device)
        self._images = self._neighbouring_images(starts)

        present, sigma, period = np.zeros(self._shape), np.ones(self._shape), np.zeros(self._shape)
        types = DistanceVariable, CoordinationVariable, TorsionVariable
        # For each type: rows of `_pairs`, and the entries of the table that follow from them.
        rows: dict[type, list[int]] = {of_type: [] for of_type in types}
        entries: dict[type, list[int]] = {of_type: [] for of_type in types}
        inverse_r0: list[float] = []
        row = 0
        for replica, own in enumerate(variables_of):
            for column, variable in enumerate(own):
                place = replica, column
                number = len(_pairs_of(variable))
                rows[type(variable)] += range(row, row + number)
                row += number
                targets = 1
                if isinstance(variable, CoordinationVariable):
                    targets = number
                    inverse_r0 += [1 / variable.r0_A] * number
                if isinstance(variable, TorsionVariable):
                    period[place] = FULL_TURN
                entries[type(variable)] += [replica * self._shape[1] + column] * targets
                present[place], sigma[place] = True, variable.width

        def indices(values: list[int]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        self._distances, self._contacts, self._torsions = (indices(rows[t]) for t in types)
        self._entries = indices([entry for of_type in types for entry in entries[of_type]])
        self._inverse_r0 = torch.tensor(inverse_r0, dtype=torch.float64, device=device)
        self.present = torch.tensor(present, dtype=torch.bool, device=device)
        self.sigma = torch.tensor(sigma, device=device)
        self._period = torch.tensor(period, device=device).unsqueeze(2)
        self._inverse_period = torch.where(self._period > 0, 1 / FULL_TURN, 0.0).double()

    def _neighbouring_images(self, starts: Sequence[Atoms]) -> torch.Tensor | None:
        """Shifts to the cells around each pair's own, shape (P, 27, 3), Å; None if not needed."""
        if all(start.cell.orthorhombic for start in starts if start.pbc.any()):
            return None
        around = np.array(list(itertools.product((0, 1, -1), repeat=3)))
        shifts = np.stack([around @ start.cell.array * start.pbc.any() for start in starts])
        device = self._pairs.replica.device
        return torch.as_tensor(shifts, device=device).index_select(0, self._pairs.replica)

    def _vectors(self, positions: torch.Tensor) -> torch.Tensor:
        """Vectors of all pairs to their nearest images, shape (P, 3)."""
        vectors = self._pairs.vectors(positions)
        if self._images is None:
            return vectors
        images = vectors.unsqueeze(1) + self._images
        nearest = images.detach().square().sum(dim=2).argmin(dim=1)
        return images.gather(1, nearest.view(-1, 1, 1).expand(-1, 1, 3)).squeeze(1)

    def __call__(self, positions: torch.Tensor) -> torch.Tensor:
        """Values of all variables, shape (R, D), 0 where there is no variable.

        Args:
            positions: shape (N, 3), Å, float64.
        """
        table = torch.zeros(
            self._shape[0] * self._shape[1], dtype=torch.float64, device=positions.device
        )
        if self.any:
            vectors = self._vectors(positions)
            parts = []
            if len(self._distances):
                parts.append(vectors.index_select(0, self._distances).norm(dim=1))
            if len(self._contacts):
                parts.append(_contact(vectors.index_select(0, self._contacts), self._inverse_r0))
            if len(self._torsions):
                parts.append(_torsion(vectors.index_select(0, self._torsions).view(-1, 3, 3)))
            table = table.index_add(0, self._entries, torch.cat(parts))
        return table.view(self._shape)

    def shorten_(self, differences: torch.Tensor) -> torch.Tensor:
        """Shorten differences of values, shape (R, D, hills), of periodic variables, in place."""
        if len(self._torsions):
            turns = (differences * self._inverse_period).round_()
            differences -= turns.mul_(self._period)
        return differences


def _reduced(start: Atoms) -> Atoms:
    """The same lattice in the cell where the nearest image is at most one cell away."""
    if not start.pbc.any() or start.cell.orthorhombic:
        return start
    reduced = start.copy()
    reduced.set_cell(start.cell.minkowski_reduce()[0])
    return reduced


def _pairs_of(variable: VariableSettings) -> list[tuple[int, int]]:
    """Pairs (i, j) of atoms whose vectors r_i - r_j make a variable."""
    match variable:
        case CoordinationVariable():
            return list(itertools.product(variable.group_a, variable.group_b))
        case _:
            return [(j, i) for i, j in itertools.pairwise(variable.atoms)]


def _contact(vectors: torch.Tensor, inverse_r0: torch.Tensor) -> torch.Tensor:
    """Contact of pairs, 1 near to 0 far: (1 - x⁶)/(1 - x¹²) = 1/(1 + x⁶), x = r/r0."""
    scaled = vectors * inverse_r0.unsqueeze(1)
    return 1 / (1 + (scaled * scaled).sum(dim=1) ** 3)


def _torsion(vectors: torch.Tensor) -> torch.Tensor:
    """Torsion angles with IUPAC's sign, degrees, shape (P,), of three vectors each, (P, 3, 3)."""
    first, middle, last = vectors.unbind(1)
    one_side, other_side = first.cross(middle, dim=1), middle.cross(last, dim=1)
    sine = middle.norm(dim=1) * (first * other_side).sum(dim=1)
    return torch.rad2deg(torch.atan2(sine, (one_side * other_side).sum(dim=1)))
