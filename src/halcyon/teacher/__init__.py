"""Cheap potentials, and the frames that they teach."""
