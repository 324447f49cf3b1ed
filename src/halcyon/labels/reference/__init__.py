"""Label backends: `cp2k`, `pyscf`, `xtb`, `ase`, `dataset` and `evc`, behind that of `base`.

    from halcyon.config import XtbReference
    from halcyon.labels.reference import make_reference

    make_reference(XtbReference(backend="xtb")).level["program"]  # "tblite"

Not for: what a backend does (each has a module), or keeping its labels (`labels.store`).
"""

from halcyon.config import (
    AseReference,
    Cp2kReference,
    DatasetReference,
    EvcReference,
    PyscfReference,
    ReferenceSettings,
    XtbReference,
)
from halcyon.labels.reference.base import Record, Reference, Status

__all__ = ["Record", "Reference", "Status", "make_reference"]


def make_reference(settings: ReferenceSettings, *, stress: bool = False) -> Reference:
    """Build the backend that the configuration names.

    Args:
        settings: section `reference`.
        stress: whether to pay for the stress of periodic frames where it costs time (CP2K); where
            it costs none it is always computed.

    Raises:
        InputError: the program is missing or its input is invalid.
    """
    match settings:
        case Cp2kReference():
            from halcyon.labels.reference.cp2k.backend import Cp2k

            return Cp2k(settings, stress=stress)
        case PyscfReference():
            from halcyon.labels.reference.pyscf.backend import Pyscf

            return Pyscf(settings)
        case XtbReference():
            from halcyon.labels.reference.xtb import Xtb

            return Xtb(settings)
        case AseReference():
            from halcyon.labels.reference.ase import AseCalculator

            return AseCalculator(settings)
        case DatasetReference():
            from halcyon.labels.reference.dataset import Dataset

            return Dataset(settings)
        case EvcReference():
            from halcyon.labels.reference.evc.backend import Evc

            return Evc(settings)
