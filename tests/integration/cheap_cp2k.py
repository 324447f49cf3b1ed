"""CP2K as integration tests use it: `cheap.yaml` is written by the fixture `cheap_level`."""

CHEAP = {
    "backend": "cp2k",
    "level": "cheap.yaml",
    "command": "cp2k.psmp",
}
