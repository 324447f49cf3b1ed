"""Halcyon: active learning for machine-learned potentials until the dynamics are calm.

The library is plain Python: it is imported and tested without Snakemake. The workflow
(Snakefile, workflow/, scripts/) chains its functions into a campaign. docs/architecture.md says
what each room of it is for.
"""

from halcyon import former_paths

__version__ = "0.1.0"

former_paths.keep_working()
