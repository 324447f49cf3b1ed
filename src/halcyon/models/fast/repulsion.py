"""The repulsion of screened nuclei that a MACE model may have beside its layers (ZBL).

J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Solids (1985); MACE
ends it smoothly at the sum of two atoms' covalent radii.

    import torch
    from mace.modules.radial import ZBLBasis
    from halcyon.models.fast.repulsion import Repulsion

    numbers = torch.tensor([1, 8])
    repulsion = Repulsion(ZBLBasis().double(), numbers, r_max=5.0, like=positions)
    element, sender = torch.tensor([0, 1]), torch.tensor([[1], [0]])  # a hydroxyl radical
    energy = positions.new_zeros(2)
    slope = repulsion(element, sender, positions.new_full((2, 1), 0.8), energy)

Not for: pairs that are not among the edges: what is beyond the model's cutoff repels nothing.
"""

from typing import Any

import torch
from torch import Tensor

from halcyon.models.fast import layers

COULOMB_EV_A = 14.3996  # e²/4πε₀, as MACE has it
BOHR_A = 0.529  # likewise
TOLERANCE = 1e-6  # MACE multiplies charges in PyTorch's default precision
DECAYS = (3.2, 0.9423, 0.4028, 0.2016)  # of the universal screening function


class Repulsion:
    """Energies of pairs, as a sum over atoms, and their slopes."""

    def __init__(self, block: Any, numbers: Tensor, *, r_max: float, like: Tensor) -> None:
        """Read MACE's block, in float64.

        Args:
            block: MACE's.
            numbers: atomic numbers of the elements that the model knows.
            r_max: the model's cutoff, Å.
            like: a tensor of the precision and on the device of the results.

        Raises:
            UnsuitableError: it does something else.
        """
        if type(block).__name__ != "ZBLBasis":
            raise layers.UnsuitableError
        z = numbers.double()
        screened = z ** float(block.a_exp)
        radii = block.covalent_radii[numbers].double()
        self._power = int(block.p)
        self._weights = [float(weight) for weight in block.c]
        self._ends = radii[:, None] + radii
        self._ranges = float(block.a_prefactor) * BOHR_A / (screened[:, None] + screened)
        self._strengths = COULOMB_EV_A / 2 * z[:, None] * z  # half of each pair for either atom
        self._check(block, numbers)
        self._reach = self._ends.clamp(max=r_max).to(like)
        self._ends, self._ranges, self._strengths = (
            table.to(like) for table in (self._ends, self._ranges, self._strengths)
        )

    def __call__(self, element: Tensor, sender: Tensor, lengths: Tensor, energy: Tensor) -> Tensor:
        """Add to the atoms' energies.

        Args:
            element: of each atom, as index into the model's, (n,).
            sender: each atom's neighbours, (n, J).
            lengths: distances to them, (n, J), Å.
            energy: (n,), eV, which is added to.

        Returns:
            Slope of the sum of energies by each distance, (n, J), eV/Å.
        """
        neighbours = element[sender]
        atom, place = torch.nonzero(
            lengths < self._reach[element[:, None], neighbours], as_tuple=True
        )
        near = (element[atom], neighbours[atom, place])
        values, slopes = self._pairs(near, lengths[atom, place])
        energy.index_add_(0, atom, values)
        by_length = torch.zeros_like(lengths)
        by_length[atom, place] = slopes
        return by_length

    def _pairs(self, pairs: tuple[Tensor, Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Half the energy of pairs of elements at distances (m,), eV, and its slope, eV/Å."""
        ranges, ends = self._ranges[pairs], self._ends[pairs]
        screening, its_slope = torch.zeros_like(lengths), torch.zeros_like(lengths)
        for weight, decay in zip(self._weights, DECAYS, strict=True):
            part = weight * torch.exp(-decay * lengths / ranges)
            screening += part
            its_slope -= decay / ranges * part
        bare = self._strengths[pairs] / lengths
        p, u = self._power, lengths / ends
        head = u**p
        cutoff = 1 - head * ((p + 1) * (p + 2) / 2 - p * (p + 2) * u + p * (p + 1) / 2 * u * u)
        cutoff_slope = -p * (p + 1) * (p + 2) / 2 * u ** (p - 1) * (1 - u) ** 2 / ends
        value = bare * screening
        slope = bare * its_slope - value / lengths
        return value * cutoff, slope * cutoff + value * cutoff_slope

    def _check(self, block: Any, numbers: Tensor) -> None:
        """Every pair of elements, at a distance where they repel."""
        n = len(numbers)
        elements = torch.arange(n, device=numbers.device)
        pairs = (elements.repeat_interleave(n), elements.repeat(n))
        generator = torch.Generator().manual_seed(n)
        part = 0.1 + 0.8 * torch.rand(n * n, dtype=torch.float64, generator=generator)
        with torch.enable_grad():
            lengths = (part.to(numbers.device) * self._ends[pairs]).requires_grad_()
            # An atom of its own for each receiver, so that energies come pair by pair.
            one_hot = torch.eye(n, dtype=torch.float64, device=numbers.device)
            atoms = torch.cat([one_hot[pairs[0]], one_hot])
            edges = torch.stack([n * n + pairs[1], torch.arange(n * n, device=numbers.device)])
            by_block = block(lengths[:, None], atoms, edges, numbers)[: n * n]
            (block_slope,) = torch.autograd.grad(by_block.sum(), lengths)
        value, slope = self._pairs(pairs, lengths.detach())
        layers.check(by_block.detach(), value, TOLERANCE)
        layers.check(block_slope, slope, TOLERANCE)
