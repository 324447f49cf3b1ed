"""MACE: load, train, evaluate."""
