"""Cheap potentials (classical force fields), and the frames that a model is pre-trained on.

Not for: labels of a reference method (`labels`), or training (`models`).
"""
