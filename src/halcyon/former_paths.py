"""Import paths that the documentation taught before the library had rooms; they keep working.

    from halcyon.calculator import MonitoredMace  # is halcyon.final.monitor.ase.MonitoredMace

Not for: new code, which names the module itself.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "halcyon.batch": "halcyon.exploration.replicas",
    "halcyon.calculator": "halcyon.final.monitor.ase",
    "halcyon.certificate": "halcyon.final.certificate",
    "halcyon.cli_index": "halcyon.domain.index",
    "halcyon.explore": "halcyon.exploration.explore",
    "halcyon.gaff2": "halcyon.teacher.gaff2",
    "halcyon.guesses": "halcyon.systems.guesses",
    "halcyon.label_store": "halcyon.labels.store",
    "halcyon.layout": "halcyon.campaign.paths",
    "halcyon.mace_model": "halcyon.models.mace",
    "halcyon.mace_training": "halcyon.models.training",
    "halcyon.openmm_monitor": "halcyon.final.monitor.openmm",
    "halcyon.packing": "halcyon.systems.packing",
    "halcyon.reference": "halcyon.labels.reference",
    "halcyon.reference.base": "halcyon.labels.reference.base",
    "halcyon.sampling": "halcyon.teacher.sampling",
    "halcyon.saturation": "halcyon.verdict.saturation",
    "halcyon.select": "halcyon.exploration.selection",
    "halcyon.signals": "halcyon.domain.signals",
    "halcyon.survival": "halcyon.verdict.survival",
    "halcyon.teachers": "halcyon.teacher.forcefield",
}
"""Former name of a module, and the name that it has now."""


class FormerPaths(MetaPathFinder, Loader):
    """Finds a module under its former name: the same module, not a second one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer for the names in `MOVED` only."""
        del path, target
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module that moved in the place of the empty one that Python has made."""
        sys.modules[module.__name__] = import_module(MOVED[module.__name__])


def keep_working() -> None:
    """Let Python find the former names, from now on and once."""
    if not any(isinstance(finder, FormerPaths) for finder in sys.meta_path):
        sys.meta_path.insert(0, FormerPaths())
