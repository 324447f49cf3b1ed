# A fault of version 2.8.0 of the SLURM plugin, where it reads the states of jobs from squeue. While
# slurmctld restarts, the plugin cannot read MinJobAge, takes it for short, and asks sacct from then on.
# Where there is no accounting, it waits for ever although all jobs are done. MinJobAge has not changed
# with the restart: its last known value is used.

import sys

PLUGIN = sys.modules.get("snakemake_executor_plugin_slurm")


def with_last_known(read):
    """The function `read`, which gives its last value again where it has none."""
    last = [None]

    def value():
        last[0] = read() or last[0]
        return last[0]

    return value


if hasattr(PLUGIN, "get_min_job_age"):
    PLUGIN.get_min_job_age = with_last_known(PLUGIN.get_min_job_age)
