"""The fast evaluation of MACE models with scalar features."""
