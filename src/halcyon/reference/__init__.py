"""Label backends: `cp2k` and `xtb`, behind the interface in `base`."""

from halcyon.config import Cp2kReference, ReferenceSettings
from halcyon.reference.base import Record, Reference, Status

__all__ = ["Record", "Reference", "Status", "make_reference"]


def make_reference(settings: ReferenceSettings) -> Reference:
    """Build the backend that the configuration names.

    Raises:
        InputError: the program is missing or its input is invalid.
    """
    if isinstance(settings, Cp2kReference):
        from halcyon.reference.cp2k import Cp2k

        return Cp2k(settings)
    from halcyon.reference.xtb import Xtb

    return Xtb(settings)
