"""CP2K as integration tests use it: `cheap.yaml` is written by the fixture `cheap_level`."""

CHEAP = {
    "backend": "cp2k",
    "level": "cheap.yaml",
    "command": "cp2k.psmp",
}

# A grid this coarse gives forces that no campaign should learn from, and they would be rejected.
TRUSTING = {"net_force_eV_per_A": None, "energy_range_eV": None, "finite_difference": False}
