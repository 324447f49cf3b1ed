"""OpenMM's units in those of Halcyon, eV and Å.

    from halcyon.teacher.openmm_units import KJ_PER_MOL

    96.485 * KJ_PER_MOL  # 1.0 eV

Not for: the units of files (`halcyon.tables`).
"""

from ase import units

KJ_PER_MOL = units.kJ / units.mol
"""1 kJ/mol in eV."""
NM = 10.0
"""1 nm in Å."""
