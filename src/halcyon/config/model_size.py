"""The size of a campaign's model in words: its preset, and where the settings differ from it.

    from halcyon.config import Settings
    from halcyon.config.model_size import in_words

    in_words(Settings(model={"preset": "standard", "channels": 32}))
    # standard (32 × 0e, correlation 3, cutoff 5 Å); it differs in model.channels: 32, not 64

Not for: what a preset sets (see `presets`).
"""

from typing import Any

from halcyon.config.campaign import Settings
from halcyon.config.presets import PRESETS


def chosen(settings: Settings) -> dict[str, dict[str, Any]]:
    """What settings have other than their preset, or than defaults, of keys that presets set."""
    differing: dict[str, dict[str, Any]] = {}
    for section, keys in PRESETS["standard"].items():
        own = getattr(settings, section)
        fields = type(own).model_fields
        base = {key: fields[key].default for key in keys}
        base |= PRESETS[settings.model.preset or "quick"].get(section, {})
        differing[section] = {
            key: getattr(own, key) for key in keys if getattr(own, key) != base[key]
        }
    return differing


def in_words(settings: Settings) -> str:
    """The model's size: its preset, and where the settings differ from it."""
    model = settings.model
    irreps = " + ".join(
        f"{model.channels} × {degree}{'eo'[degree % 2]}" for degree in range(model.max_L + 1)
    )
    size = f"{irreps}, correlation {model.correlation}, cutoff {model.r_max_A:g} Å"
    if model.preset is None:
        return size
    base = {
        (section, key): PRESETS[model.preset].get(section, {}).get(key)
        for section, keys in PRESETS["standard"].items()
        for key in keys
    }
    differing = [
        f"{section}.{key}: {value}"
        + (f", not {base[section, key]}" if base[section, key] is not None else "")
        for section, values in chosen(settings).items()
        for key, value in values.items()
    ]
    words = f"{model.preset} ({size})"
    return f"{words}; it differs in {'; '.join(differing)}" if differing else words
