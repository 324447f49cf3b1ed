"""Cumulative latent instability (CLI), on-line: what accumulates while a trajectory runs.

With `s_i` the distance of atom *i*'s prediction outside its domain, in widths of the domain,
and `h` a step or its smooth form, the atomic index is the time the atom has spent on unreliable
predictions, `Λ_i(t) = ∫ h(s_i) dt`, in ps. It does not depend on the time step. Consecutive steps
of an atom outside are one *excursion*: the (nearly) independent events that statistics count.

This is Halcyon's operationalisation of the idea of B. K. Isamura and P. L. A. Popelier; see
`intervals`.

    import torch
    from halcyon.domain.index import CliIndex

    index = CliIndex(3, timestep_ps=5e-4)
    index.update(torch.tensor([[0.0, 0.2, 0.0], [0.0, 0.1, 0.3]]))  # scores of two steps
    index.cli.tolist()  # [0.0, 0.001, 0.0005]
    index.excursions.tolist()  # [0, 1, 1]

Not for: scores (see `signals`), or deciding from the numbers (see `halcyon.verdict.saturation`).
"""

import torch


class CliIndex:
    """The index of all atoms of a batch of replicas, of one signal or of several at once.

    All tensors live on one device; `update` does no transfer. Steps are added up, not times: with
    the hard indicator Λ does not depend, to the last bit, on how many steps came at once.

    Attributes:
        steps: Σ h(s_i), shape (..., N).
        excursions: number of excursions each atom has begun, shape (..., N).
        outside: whether each atom is outside now, shape (..., N).
    """

    def __init__(
        self,
        *shape: int,
        timestep_ps: float,
        device: torch.device | str = "cpu",
        indicator: str = "hard",
        kappa: float = 0.1,
    ) -> None:
        """Start at zero.

        Args:
            shape: (N,) for N atoms; (S, N) for S signals, whose numbers never mix.
            timestep_ps: time between two updates, ps.
            device: where scores will be.
            indicator: `hard`: 1 outside; `smooth`: 1 - exp(-(s/kappa)²).
            kappa: scale of the smooth indicator, in the unit of scores.
        """
        self.timestep_ps = timestep_ps
        self.indicator = indicator
        self.kappa = kappa
        # Float64 whatever the model's precision: millions of steps are added up.
        self.steps = torch.zeros(shape, dtype=torch.float64, device=device)
        self.excursions = torch.zeros(shape, dtype=torch.int64, device=device)
        self.outside = torch.zeros(shape, dtype=torch.bool, device=device)

    @property
    def cli(self) -> torch.Tensor:
        """Atomic Λ_i, shape (..., N), ps."""
        return self.steps * self.timestep_ps

    def update(self, scores: torch.Tensor) -> None:
        """Take consecutive steps into account.

        Args:
            scores: s_i ≥ 0 of K steps, shape (..., K, N); over 0 is outside.
        """
        outside = scores > 0
        self.steps = self.steps + self.weight(scores).sum(dim=-2)
        before = torch.cat([self.outside.unsqueeze(-2), outside[..., :-1, :]], dim=-2)
        self.excursions = self.excursions + (outside > before).sum(dim=-2)
        self.outside = outside[..., -1, :]

    def weight(self, scores: torch.Tensor) -> torch.Tensor:
        """The indicator h(s), of the shape of the scores."""
        if self.indicator == "hard":
            return (scores > 0).double()
        return -torch.expm1(-((scores.double() / self.kappa) ** 2))

    def keep(self, atoms: torch.Tensor) -> None:
        """Drop the atoms of retired replicas; `atoms` is a mask, shape (N,)."""
        for name, value in self.state().items():
            setattr(self, name, value[..., atoms])

    def restart(self, atoms: slice) -> None:
        """Let some atoms count from zero again, as if they had just joined."""
        for value in self.state().values():
            value[..., atoms] = 0

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold."""
        return {name: getattr(self, name) for name in ("steps", "excursions", "outside")}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a copy of `state`."""
        for name, value in state.items():
            setattr(self, name, value.to(self.steps.device, copy=True))

    def join(self, n_atoms: int) -> None:
        """Add the atoms of new replicas after the others, at zero."""
        for name, value in self.state().items():
            new = value.new_zeros((*value.shape[:-1], n_atoms))
            setattr(self, name, torch.cat([value, new], dim=-1))


def per_replica(
    values: torch.Tensor, replica: torch.Tensor, n_replicas: int, how: str
) -> torch.Tensor:
    """Reduce an atomic quantity to replicas.

    Args:
        values: shape (..., N).
        replica: index of each atom's replica, shape (N,).
        n_replicas: R.
        how: `mean`, `sum` or `amax`.

    Returns:
        Shape (..., R).
    """
    out = torch.zeros(*values.shape[:-1], n_replicas, dtype=values.dtype, device=values.device)
    where = replica.expand(values.shape)
    return out.scatter_reduce(-1, where, values, reduce=how, include_self=False)
