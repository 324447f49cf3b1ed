# What a job is asked for where it is not run on this machine: time, memory, GPUs. A profile's
# `set-resources` overrides each. See halcyon.campaign.sizes, and docs/cluster.md.

import shutil

SIZES = JobSizes(CAMPAIGN)


def sized(stage, what):
    """Resource function of a rule: `runtime_min` or `memory_mb`."""

    def size_of(wildcards):
        batch = wildcards.get("batch") or f"gen{wildcards.get('gen', '')}"
        once = batch == "gen"  # before the first generation, or after the last
        job = stage if once else f"{batch}-{stage}"
        if "shard" in wildcards.keys():
            job += f"-{wildcards.shard}"
        generation = None if once else generation_of(batch)
        size = SIZES.of(stage, wildcards.system, generation=generation, job=job)
        return getattr(size, what)

    return size_of


def gpus(wildcards):
    """1 where a model runs on a GPU of this machine; on a cluster the profile says so."""
    device = SETTINGS[wildcards.system].resources.device
    here = shutil.which("nvidia-smi") is not None and workflow.local_exec
    on_gpu = device == "cuda" or (
        device == "auto" and here and not workflow.remote_exec
    )
    return int(on_gpu)


def budgeted_seconds(wildcards, resources):
    """Wall time that a long job gives itself: 0.9 of its limit. On this machine there is none."""
    return 54 * resources.runtime if workflow.remote_exec else "inf"


def ranks(wildcards, resources):
    """Processes of a label job that the reference's own launcher starts (MPI)."""
    return resources.get("tasks", 1) if "mpi" in resources.keys() else 1
