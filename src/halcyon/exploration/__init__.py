"""Watched dynamics, and which of its frames deserve a label."""
