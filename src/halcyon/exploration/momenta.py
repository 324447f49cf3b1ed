"""Momenta: a Maxwell-Boltzmann draw without motion of the centre of mass, and their temperature.

    import torch
    from halcyon.exploration.momenta import start_momenta

    masses = torch.tensor([15.999, 1.008, 1.008], dtype=torch.float64)  # water
    momenta = start_momenta(masses, 300.0, seed=1)  # shape (3, 3)

The velocity of the centre of mass is taken off every atom, so each atom loses a momentum in
proportion to its mass. (torch-sim's `calculate_momenta` takes the same momentum off every atom:
light atoms then start far too hot, water at "500 K" at 1310 K.)

Not for: the thermostat, which draws its own numbers (`dynamics`).
"""

import torch
import torch_sim as ts

KELVIN = float(ts.units.MetalUnits.temperature)
"""k_B, eV/K."""


def start_momenta(
    masses: torch.Tensor, temperature_K: float, *, seed: int, free: torch.Tensor | None = None
) -> torch.Tensor:
    """Draw the momenta of one replica.

    1. Each component is drawn from a normal distribution with the variance m k_B T.
    2. The velocity of the centre of mass is removed: p_i ← p_i − m_i (Σp)/(Σm).
    3. All are scaled so that the kinetic energy is (3N − 3)/2 k_B T, that of the degrees of
       freedom that are left. Angular momentum is kept.

    A single atom keeps what was drawn: nothing would be left of it. Where atoms are fixed, they
    have no momentum, the others' centre of mass may move, and 2 is left out: M free atoms have 3M
    degrees of freedom.

    Args:
        masses: of the atoms, shape (N,), u; its device and type are those of the result.
        temperature_K: kinetic temperature to begin with, K.
        seed: the same seed gives the same momenta, whatever the device and the type.
        free: which atoms may move, shape (N,); None: all.

    Returns:
        Momenta in torch-sim's metal units, sqrt(eV u), shape (N, 3).
    """
    mass = masses.detach().to("cpu", torch.float64)[:, None]
    kT = temperature_K * KELVIN
    generator = torch.Generator().manual_seed(seed)
    momenta = torch.randn(len(mass), 3, generator=generator, dtype=torch.float64)
    momenta *= torch.sqrt(mass * kT)
    if free is not None and not free.all():
        momenta *= free.to("cpu")[:, None]
        twice_kinetic, degrees = (momenta**2 / mass).sum(), 3 * int(free.sum())
        if twice_kinetic > 0:
            momenta *= torch.sqrt(degrees * kT / twice_kinetic)
    elif len(mass) > 1:
        momenta -= mass * momenta.sum(dim=0) / mass.sum()
        twice_kinetic = (momenta**2 / mass).sum()
        if twice_kinetic > 0:
            momenta *= torch.sqrt((3 * len(mass) - 3) * kT / twice_kinetic)
    return momenta.to(masses.device, masses.dtype)


def kinetic_energies(
    momenta: torch.Tensor, masses: torch.Tensor, replica: torch.Tensor, n_replicas: int
) -> torch.Tensor:
    """Kinetic energy of each of R replicas, motion of the centre of mass included.

    Args:
        momenta: in torch-sim's metal units, shape (..., N, 3).
        masses: shape (N,), u.
        replica: index of each atom's replica, shape (N,).
        n_replicas: R.

    Returns:
        Shape (..., R), eV, float64.
    """
    of_atom = (momenta.double() ** 2).sum(dim=-1) / (2 * masses.double())
    zero = of_atom.new_zeros((*of_atom.shape[:-1], n_replicas))
    return zero.index_add_(-1, replica, of_atom)


def temperatures(
    momenta: torch.Tensor,
    masses: torch.Tensor,
    replica: torch.Tensor,
    n_replicas: int,
    free: torch.Tensor | None = None,
) -> torch.Tensor:
    """Kinetic temperature of each of R replicas about its centre of mass.

    T = 2 (K − P²/2M) / ((3N − 3) k_B), with the kinetic energy K, the momentum P of the centre of
    mass, and the mass M of all N atoms. That is the temperature whatever the centre of mass does:
    it rests at the start, the thermostat's kicks let it move within 1/friction, and without a
    thermostat it moves for ever as it does. (torch-sim's `calc_kT` counts 3N degrees of freedom: a
    water whose centre of mass rests then reads two thirds of its temperature.)

    A single atom has nothing else than the motion of its centre: T = 2K/(3 k_B). Where atoms are
    fixed, the total momentum is not conserved, and M free ones have T = 2K/(3M k_B).

    Args:
        momenta: in torch-sim's metal units, shape (N, 3).
        masses: shape (N,), u.
        replica: index of each atom's replica, shape (N,).
        n_replicas: R.
        free: which atoms may move, shape (N,); None: all.

    Returns:
        Shape (R,), K, float64.
    """
    mass = masses.double()
    sizes = torch.bincount(replica, minlength=n_replicas)
    whole = momenta.new_zeros((n_replicas, 3), dtype=torch.float64)
    whole.index_add_(0, replica, momenta.double())
    total_mass = mass.new_zeros(n_replicas).index_add_(0, replica, mass)
    of_centre = (whole**2).sum(dim=1) / (2 * total_mass)
    moving = sizes if free is None else torch.bincount(replica[free], minlength=n_replicas)
    # The centre of a single atom is all it has, and fixed atoms let the centre move.
    alone = (sizes == 1) | (moving < sizes)
    kinetic = kinetic_energies(momenta, masses, replica, n_replicas)
    about_centre = kinetic - torch.where(alone, 0.0, of_centre)
    return 2 * about_centre / (torch.where(alone, 3 * moving, 3 * sizes - 3) * KELVIN)
