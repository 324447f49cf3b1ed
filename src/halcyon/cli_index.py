"""Cumulative latent instability (CLI), on-line: what accumulates while a trajectory runs.

With `s_i` the distance of atom *i*'s predicted energy outside its domain, in widths of the domain,
and `h` a step or its smooth form, the atomic index is the time the atom has spent on unreliable
predictions, `Λ_i(t) = ∫ h(s_i) dt`, in ps. It does not depend on the time step. Consecutive steps
of an atom outside are one *excursion*: the (nearly) independent events that statistics count.

Our operationalisation of the idea of B. K. Isamura and P. L. A. Popelier; see `domain`.

Not for: deciding from the numbers (see `saturation`).
"""

import torch


class CliIndex:
    """The index of all atoms of a batch of replicas, against one tier of the domain.

    All tensors live on one device; `update` does no transfer.

    Attributes:
        cli: atomic Λ_i, shape (N,), ps.
        excursions: number of excursions each atom has begun, shape (N,).
        outside: whether each atom is outside now, shape (N,).
    """

    def __init__(
        self,
        bounds: torch.Tensor,
        *,
        timestep_ps: float,
        indicator: str = "hard",
        kappa: float = 0.1,
    ) -> None:
        """Start at zero.

        Args:
            bounds: lower and upper bound of every atom's domain, shape (2, N), eV.
            timestep_ps: time between two updates, ps.
            indicator: `hard`: 1 outside; `smooth`: 1 - exp(-(s/kappa)²).
            kappa: scale of the smooth indicator, in widths of the domain.
        """
        # Float64 whatever the model's precision: millions of small steps are added up.
        self.lower, self.upper = bounds.double()
        self.timestep_ps = timestep_ps
        self.indicator = indicator
        self.kappa = kappa
        self.cli = torch.zeros_like(self.lower)
        self.excursions = torch.zeros_like(self.lower, dtype=torch.int64)
        self.outside = torch.zeros_like(self.lower, dtype=torch.bool)

    def update(self, node_energy: torch.Tensor) -> torch.Tensor:
        """Take one step's atomic energies into account.

        Args:
            node_energy: interaction energy of every atom, shape (N,), eV. A value that is not
                finite counts as outside.

        Returns:
            Scores s_i ≥ 0, shape (N,), in widths of the domain; infinite where not finite.
        """
        energy = node_energy.double()
        distance = torch.maximum(self.lower - energy, energy - self.upper)
        score = torch.clamp(distance / (self.upper - self.lower), min=0.0)
        score = torch.where(torch.isfinite(energy), score, torch.inf)
        outside = score > 0
        if self.indicator == "hard":
            weight = outside.double()
        else:
            weight = 1 - torch.exp(-((score / self.kappa) ** 2))
        self.cli += weight * self.timestep_ps
        self.excursions += outside & ~self.outside
        self.outside = outside
        return score

    def keep(self, atoms: torch.Tensor) -> None:
        """Drop the atoms of retired replicas; `atoms` is a mask, shape (N,)."""
        for name in ("lower", "upper", "cli", "excursions", "outside"):
            setattr(self, name, getattr(self, name)[atoms])

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold."""
        return {name: getattr(self, name) for name in ("cli", "excursions", "outside")}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from `state`."""
        for name, value in state.items():
            setattr(self, name, value.to(self.lower.device))


def per_replica(
    values: torch.Tensor, replica: torch.Tensor, n_replicas: int, how: str
) -> torch.Tensor:
    """Reduce an atomic quantity to replicas.

    Args:
        values: shape (N,).
        replica: index of each atom's replica, shape (N,).
        n_replicas: R.
        how: `mean`, `sum` or `amax`.

    Returns:
        Shape (R,).
    """
    out = torch.zeros(n_replicas, dtype=values.dtype, device=values.device)
    return out.scatter_reduce(0, replica, values, reduce=how, include_self=False)
