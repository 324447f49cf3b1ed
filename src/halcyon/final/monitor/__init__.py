"""The model in ASE and OpenMM, every step watched by the CLI."""
