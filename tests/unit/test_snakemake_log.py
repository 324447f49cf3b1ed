"""What is read from Snakemake's own log, written by Snakemake."""

import subprocess
import sys
from pathlib import Path

from halcyon.commands.status import snakemake_log

SNAKEFILE = """
rule all:
    input: "results/mine/good", "results/mine/bad"

rule good:
    output: "results/mine/good"
    log: "results/mine/logs/good.log"
    shell: "touch {output}"

rule bad:
    output: "results/mine/bad"
    log: "results/mine/logs/bad.log"
    retries: 1
    shell: "echo error it went wrong > {log}; exit 1"
"""
SUBMITTED = """
rule label:
    output: results/mine/x
    log: results/mine/logs/label.log
    jobid: 7
    wildcards: system=mine
Job 7 has been submitted with SLURM jobid 4321 (log: /home/me/.snakemake/slurm_logs/4321.log).
"""


def test_states_of_jobs(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    snakemake = Path(sys.executable).with_name("snakemake")
    done = subprocess.run(
        [snakemake, "--cores", "1", "--keep-going"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert snakemake_log.find_log([tmp_path], "results/other") is None
    path = snakemake_log.find_log([tmp_path / "nowhere", tmp_path], "results/mine")
    jobs = {job.rule: job for job in snakemake_log.parse(path.read_text()).values()}
    assert (jobs["good"].state, jobs["bad"].state) == ("done", "failed")
    assert jobs["bad"].log == "results/mine/logs/bad.log"
    begun = path.read_text().split("Finished jobid")[0].split("Error in rule")[0]
    assert "running" in {job.state for job in snakemake_log.parse(begun).values()}


def test_jobs_of_slurm_have_their_number():
    """As the slurm plugin 2.8.0 writes it."""
    (job,) = snakemake_log.parse(SUBMITTED).values()
    assert (job.state, job.slurm) == ("running", "4321")
    assert job.slurm_log == "/home/me/.snakemake/slurm_logs/4321.log"
