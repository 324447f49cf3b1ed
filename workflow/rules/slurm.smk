# Where squeue tells the states of jobs and slurmctld is restarted meanwhile. Version 2.8.0 of the SLURM
# plugin then takes the unknown MinJobAge for a short one and asks sacct from there on: where there is
# no accounting, for ever, with all jobs done. What MinJobAge was before the restart still holds.

import sys

PLUGIN = sys.modules.get("snakemake_executor_plugin_slurm")


def remembering(ask):
    """What it last answered, where it knows nothing."""
    known = [None]

    def asked():
        known[0] = ask() or known[0]
        return known[0]

    return asked


if hasattr(PLUGIN, "get_min_job_age"):
    PLUGIN.get_min_job_age = remembering(PLUGIN.get_min_job_age)
