"""Snakemake that asks SLURM for the states of its jobs every second; same command line.

Its SLURM plugin waits 10 s longer after each question, up to 3 minutes, to spare a controller that
has others to serve. Ours has not, and a test would wait most of its time.
"""

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

EVERY_S = 1.0

RemoteExecutor.next_seconds_between_status_checks = property(
    lambda _executor: EVERY_S, lambda _executor, _longer: None
)
main()
