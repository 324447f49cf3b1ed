"""Sizes of model that have a name: what `model.preset` stands for, and which one fits.

    from halcyon.config.presets import recommended

    recommended(9, device="cuda", trial=False)[0]  # "large"

Not for: what the keys mean (see `learning`), or a campaign's own size in words (see `model_size`).
"""

from collections.abc import Mapping
from typing import Any, Literal

PresetName = Literal["quick", "standard", "large"]

_LONG_FIT = {"epochs": 200, "updates": (3000, 20_000), "learning_rate": 0.01}
PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "quick": {},
    "standard": {
        "model": {"channels": 64, "max_L": 0, "correlation": 3, "r_max_A": 5.0},
        "pretraining": {"learning_rate": 0.01},
        "training": _LONG_FIT,
    },
    "large": {
        "model": {"channels": 128, "max_L": 1, "correlation": 3, "r_max_A": 5.0},
        "pretraining": {"learning_rate": 0.01},
        "training": _LONG_FIT,
    },
}
"""Values by preset, section and key; what is not here has its default, in `quick` everything."""

MOLECULE_ATOMS = 60
"""Up to so many atoms `standard` steps fast enough on a core to be explored for tens of ps."""
LARGE_ATOMS = 500
"""Up to so many, `large` does on a graphics card."""


def filled(section: str, content: Mapping[str, Any], preset: str | None) -> dict[str, Any]:
    """A section's content with the preset's values where it has none."""
    return {**PRESETS.get(preset or "quick", {}).get(section, {}), **content}


def recommended(n_atoms: int, *, device: str, trial: bool) -> tuple[PresetName, str]:
    """The preset for a system, and why, in a line.

    Args:
        n_atoms: of the largest structure that is explored.
        device: "cpu" or "cuda": where the model will run.
        trial: whether labels are for trying out.
    """
    if trial:
        return "quick", "labels for trying out: minutes of training; standard to publish with"
    if device == "cuda":
        if n_atoms <= LARGE_ATOMS:
            return "large", f"{n_atoms} atoms on a graphics card: the most accurate one runs"
        return "standard", f"{n_atoms} atoms on a graphics card: large would be slow"
    if n_atoms <= MOLECULE_ATOMS:
        return "standard", f"{n_atoms} atoms on a processor: it steps fast enough"
    return "quick", f"{n_atoms} atoms on a processor: a larger one wants a graphics card"
