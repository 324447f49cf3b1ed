"""What is computed from trajectories: spectra, distributions, diffusion, free energies, intervals.

    from exams.observables import diffusion, mean_square_displacement

    squares = mean_square_displacement(tracks)  # of molecules, shape (frames, molecules, 3), Å
    diffusion(squares, every_ps=0.5, fit_ps=(2.0, 8.0))  # 1e-9 m²/s

Not for: dynamics (see `segments`).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.geometry import get_dihedrals
from ase.geometry.rdf import get_rdf
from scipy.integrate import cumulative_trapezoid
from scipy.signal import periodogram

from halcyon.exploration.reactions import FORMS
from halcyon.systems.graphs import pairs_of, species, touching

PER_CM = 1e15 / 2.99792458e10
"""A frequency of 1/fs, in 1/cm."""
RESAMPLES = 2000
SEED = 20261129


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval, and of how many independent parts it is.

    With fewer than two parts there is no interval: its ends are NaN.
    """

    value: float
    low: float
    high: float
    parts: int


def bootstrap(parts: np.ndarray, statistic: Callable[[np.ndarray], float]) -> Interval:
    """A statistic of independent parts (replicas), with an interval by resampling them.

    Args:
        parts: shape (P, ...).
        statistic: of such an array.
    """
    parts = np.asarray(parts)
    number = len(parts)
    value = float(statistic(parts))
    if number < 2:
        return Interval(value, math.nan, math.nan, number)
    draws = np.random.default_rng(SEED).integers(number, size=(RESAMPLES, number))
    low, high = np.nanquantile([statistic(parts[draw]) for draw in draws], [0.025, 0.975])
    return Interval(value, float(low), float(high), number)


def difference(first: np.ndarray, second: np.ndarray, statistic: Callable) -> Interval:
    """A statistic of the first replicas minus that of the second, each resampled on its own."""
    first, second = np.asarray(first), np.asarray(second)
    value = float(statistic(first) - statistic(second))
    parts = min(len(first), len(second))
    if parts < 2:
        return Interval(value, math.nan, math.nan, parts)
    random = np.random.default_rng(SEED)
    drawn = [
        statistic(first[random.integers(len(first), size=len(first))])
        - statistic(second[random.integers(len(second), size=len(second))])
        for _ in range(RESAMPLES)
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high), parts)


def vibrations(
    velocities: np.ndarray, masses: np.ndarray, *, every_fs: float, edges: np.ndarray
) -> np.ndarray:
    """Vibrational density of states: power of mass-weighted velocities between frequencies.

    It is the Fourier transform of their autocorrelation (Wiener-Khinchin theorem), with a Hann
    window.

    Args:
        velocities: shape (frames, N, 3), any unit.
        masses: shape (N,), any unit.
        every_fs: time between frames, fs.
        edges: of bins, ascending, 1/cm.

    Returns:
        Share of the power in each bin, sum 1 where all of it lies within the edges.
    """
    weighted = velocities * np.sqrt(masses)[:, None]
    frequencies, power = periodogram(
        weighted, fs=1 / every_fs, window="hann", detrend=False, axis=0
    )
    summed = cumulative_trapezoid(power.sum(axis=(1, 2)), frequencies, initial=0)
    return np.diff(np.interp(edges, PER_CM * frequencies, summed / summed[-1]))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """What two distributions share, 0 to 1: the sum of the smaller of each bin."""
    first, second = first / first.sum(), second / second.sum()
    return float(np.minimum(first, second).sum())


def torsions(positions: np.ndarray, atoms: Sequence[int]) -> np.ndarray:
    """Torsion angles, shape (frames,), degrees from -180 to 180.

    Args:
        positions: shape (frames, N, 3), Å.
        atoms: four along the chain.
    """
    i, j, k, l = (positions[:, atom] for atom in atoms)  # noqa: E741 - as torsions are written
    return (get_dihedrals(j - i, k - j, l - k) + 180) % 360 - 180


def radial(
    frames: Sequence[Atoms], pair: tuple[int, int], *, range_A: float, bins: int
) -> np.ndarray:
    """Radial distribution function of two elements, mean of frames, shape (bins,).

    Args:
        frames: periodic, their cell at least twice the range.
        pair: atomic numbers.
        range_A: greatest distance.
        bins: number of them.
    """
    return np.mean(
        [get_rdf(frame, range_A, bins, elements=pair, no_dists=True) for frame in frames], axis=0
    )


def unwrapped(positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Paths without the jumps of periodic boundaries, shape (frames, N, 3), Å.

    Args:
        positions: shape (frames, N, 3), Å; no atom moves by half a cell between two frames.
        cell: shape (3, 3), Å, constant.
    """
    moved = np.diff(positions, axis=0) @ np.linalg.inv(cell)
    moved -= np.round(moved)
    return np.concatenate([positions[:1], positions[:1] + np.cumsum(moved @ cell, axis=0)])


def mean_square_displacement(tracks: np.ndarray) -> np.ndarray:
    """Mean over molecules and times of origin, shape (lags,), Å²; lags up to half the frames.

    Args:
        tracks: unwrapped, shape (frames, molecules, 3), Å.
    """
    return np.array(
        [0.0]
        + [
            float(((tracks[lag:] - tracks[:-lag]) ** 2).sum(axis=2).mean())
            for lag in range(1, len(tracks) // 2 + 1)
        ]
    )


def diffusion(squares: np.ndarray, *, every_ps: float, fit_ps: tuple[float, float]) -> float:
    """Diffusion coefficient, 1e-9 m²/s: a sixth of the slope (Einstein); NaN without two lags.

    Args:
        squares: mean square displacements at lags 0, 1, …, Å².
        every_ps: between lags.
        fit_ps: first and last lag of the fit.
    """
    lags = every_ps * np.arange(len(squares))
    chosen = (lags >= fit_ps[0]) & (lags <= fit_ps[1])
    if chosen.sum() < 2:
        return math.nan
    # 1 Å²/ps is 10 × 1e-9 m²/s.
    return 10 * float(np.polyfit(lags[chosen], squares[chosen], 1)[0]) / 6


def drift(energies: np.ndarray, *, every_fs: float, atoms: int) -> float:
    """Slope of the total energy, meV/(atom ps)."""
    times_ps = every_fs / 1000 * np.arange(len(energies))
    return 1000 * float(np.polyfit(times_ps, energies, 1)[0]) / atoms


def hills_on(
    grid: np.ndarray, centres: np.ndarray, heights: np.ndarray, width: float
) -> np.ndarray:
    """Sum of Gaussian hills on a grid, eV, shape of the grid."""
    apart = (grid[:, None] - np.asarray(centres)[None, :]) / width
    return (np.exp(-(apart**2) / 2) * np.asarray(heights)).sum(axis=1)


def free_energy(bias_eV: np.ndarray, bias_factor: float) -> np.ndarray:
    """Free energy from the bias of well-tempered metadynamics, least value 0, eV.

    F = -γ/(γ - 1) V (A. Barducci, G. Bussi, M. Parrinello, Phys. Rev. Lett. 100, 020603, 2008).

    Args:
        bias_eV: at late times, averaged over some, on a grid.
        bias_factor: γ.
    """
    surface = -bias_factor / (bias_factor - 1) * bias_eV
    return surface - surface.min()


def barrier(
    grid: np.ndarray, surface: np.ndarray, first: tuple[float, float], second: tuple[float, float]
) -> float:
    """Height of the barrier above the first basin, eV.

    Args:
        grid: of the variable, ascending.
        surface: free energy on it, eV.
        first: range of the first basin.
        second: of the second.
    """
    at_first = np.flatnonzero((grid >= first[0]) & (grid <= first[1]))
    at_second = np.flatnonzero((grid >= second[0]) & (grid <= second[1]))
    bottom = at_first[surface[at_first].argmin()]
    other = at_second[surface[at_second].argmin()]
    between = surface[min(bottom, other) : max(bottom, other) + 1]
    return float(between.max() - surface[bottom])


def kinds(frames: Sequence[Atoms]) -> list[Counter[str]]:
    """Formulas of the molecules of each frame, and how many there are of each."""
    near = FORMS * touching(frames[0].numbers) if frames else None
    counted = []
    for frame in frames:
        bonded = frame.get_all_distances(mic=bool(frame.pbc.any())) < near
        np.fill_diagonal(bonded, 0)
        molecules = species(frame.numbers, pairs_of(bonded))
        counted.append(Counter(each.formula for each in molecules))
    return counted


def unphysical(counted: Sequence[Counter[str]], allowed: Sequence[str]) -> Counter[str]:
    """How often a molecule that is not allowed was there at two looks in a row, first of each.

    What is there at one look only has met, not reacted.
    """
    episodes: Counter[str] = Counter()
    for before, now, after in zip([Counter(), *counted], counted, counted[1:], strict=False):
        episodes.update(
            formula
            for formula in now
            if formula not in allowed and formula in after and formula not in before
        )
    return episodes


def force_errors(apart: Sequence[np.ndarray]) -> dict[str, float]:
    """Mean absolute error of components and 95th percentile of the atoms' errors, meV/Å."""
    components = np.concatenate([np.abs(each).ravel() for each in apart])
    of_atoms = np.concatenate([np.linalg.norm(each, axis=1) for each in apart])
    return {
        "frames": len(apart),
        "forces_mae_meV_per_A": 1000 * float(components.mean()),
        "atom_error_p95_meV_per_A": 1000 * float(np.quantile(of_atoms, 0.95)),
    }
