"""Files, jobs and money of a campaign.

    from halcyon.campaign import Campaign

Not for: what a stage computes, or what a person reads (`report`).
"""

from typing import Any

__all__ = ["Campaign"]


def __getattr__(name: str) -> Any:
    """Load the campaign when it is used, not with every module of this room."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from halcyon.campaign.campaign import Campaign

    return Campaign
