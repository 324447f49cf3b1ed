"""Start structures: built, packed, guessed and drawn.

    from halcyon.systems import bonds, start_structure

Not for: force fields (`teacher`), or labels (`labels`).
"""

from typing import Any

__all__ = ["atom_classes", "bonds", "start_structure"]


def __getattr__(name: str) -> Any:
    """Load chemistry when it is used: Snakemake's own process imports this room without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from halcyon.systems import structures

    return getattr(structures, name)
