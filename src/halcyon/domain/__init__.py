"""What the model knows, and judging a step of dynamics against it.

    from halcyon.domain import Domain

Not for: what is done about a step outside the domain (`exploration`), or the decision (`verdict`).
"""

from typing import Any

__all__ = ["Domain"]


def __getattr__(name: str) -> Any:
    """Load the domain when it is used, not with every module of this room."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from halcyon.domain.intervals import Domain

    return Domain
