"""Eigenvector continuation: correlated states of few geometries, interpolated to all others."""
