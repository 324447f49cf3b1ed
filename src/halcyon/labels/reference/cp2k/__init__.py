"""CP2K as a label backend: its input, its process, its output, and the rescue of an SCF."""
