"""What each step of a run is held against: a domain, signals, and what counts as a failure.

    from halcyon.config import DomainSettings
    from halcyon.exploration.monitoring import Monitoring

    monitoring = Monitoring(domain=domain, settings=DomainSettings(), system_kind="molecule")
    list(monitoring.signals())  # ["error", "label", "guard", "latent"]

Not for: scores (see `domain.signals`), or failures (see `domain.failures`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch_sim.models.interface import ModelInterface

from halcyon.config import DomainSettings
from halcyon.domain.displacements import LatticeSites
from halcyon.domain.intervals import Domain
from halcyon.domain.signals import TIERS, Signal, make_signals


@dataclass(frozen=True, kw_only=True)
class Monitoring:
    """What every step is held against.

    Attributes:
        domain: of the model: intervals, bonds, calibration of signals, expected errors.
        settings: which signals, and how the CLI counts a score (hard or smooth).
        system_kind: what counts as a failure.
        committee: the other models of the signal `committee`; none where it is not watched.
        fixed: atoms that no dynamics moves, by the name of their structure.
        sites: of crystals, by the name of their structure.
    """

    domain: Domain
    settings: DomainSettings
    system_kind: str
    committee: Sequence[ModelInterface] = ()
    fixed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    sites: Mapping[str, LatticeSites] = field(default_factory=dict)

    def signals(self) -> dict[str, Signal]:
        """All signals, what decides first, by the ending of their trace columns.

        Raises:
            InputError: the domain has no expected errors, or a signal is not calibrated.
        """
        return make_signals(self.domain, self.settings.signals, self.committee)

    def more_signals(self) -> list[str]:
        """A line for people on each signal beside those of atomic energies."""
        return [s.describe() for s in self.signals().values() if s.name not in TIERS]
