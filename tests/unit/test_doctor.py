"""What the doctor sees, and what it says to do."""

import fcntl
import json
import stat

import pytest
import yaml
from fabricated import campaign

from conftest import ROOT
from halcyon.commands.doctor import checks as doctor
from halcyon.commands.main import main
from halcyon.commands.plan.measure import run_trial
from halcyon.labels.reference.cp2k.level import read_level


@pytest.fixture
def checks(tmp_path):
    """Verdict and line of each check by name, after changes to the campaign's file."""

    def run(profile=None, **changes):
        campaign(tmp_path)
        path = tmp_path / "trial.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
        found = doctor.examine(path, profile, trials=False, constraints=ROOT / "constraints.txt")
        return {f"{c.name} {c.finding.split(':')[0]}": c for c in found}

    return run


def faults(found):
    return {name: check for name, check in found.items() if check.verdict == doctor.FAULT}


def test_a_good_installation_has_no_fault(checks):
    found = checks()
    assert not faults(found)
    assert {"locking results", "clock label_store", "Python 3"} <= {
        name.split(".")[0] for name in found
    }


def test_cp2k_is_missing_and_the_disk_is_full(checks):
    level = str(ROOT / "config/cp2k/pbe-d3-dzvp.yaml")
    reference = {"backend": "cp2k", "level": level, "command": "cp2k-is-not-here"}
    limits = {"max_generations": 4, "label_budget": 200, "min_free_disk_GB": 1e6}
    found = faults(checks(reference=reference, limits=limits))
    assert {name.split()[0] for name in found} == {"disk", "reference"}
    by_name = {check.name: check for check in found.values()}
    assert "cp2k-is-not-here" in by_name["reference cp2k"].finding
    assert "apt-get install cp2k" in by_name["reference cp2k"].remedy
    assert "1e+06" in by_name["disk"].finding


def test_a_wrong_level_and_a_wrong_key(checks):
    reference = {"backend": "cp2k", "level": "no-such-level.yaml"}
    (fault,) = faults(checks(reference=reference)).values()
    assert "no-such-level.yaml" in fault.finding
    (fault,) = faults(checks(exploration={"replica": 3})).values()
    assert (fault.name, fault.remedy) == ("configuration", "correct the file")


def write_program(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


PROFILE = {
    "executor": "slurm",
    "rerun-triggers": ["mtime", "code"],
    "default-resources": ["slurm_partition=cpu", "mem_mb=2000"],
    "set-resources": {"train": {"slurm_partition": "gpu", "runtime": 60}},
}


def test_partitions_that_a_profile_names():
    assert doctor.partitions(PROFILE) == {"cpu", "gpu"}
    text = {"set-resources": ["train:slurm_partition='fast,slow'"]}
    assert doctor.partitions(text) == {"fast", "slow"}


def test_a_cluster_without_the_partition(checks, tmp_path, monkeypatch):
    """`sinfo` and its kin are programs outside Halcyon: here, ones that answer as SLURM's do."""
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/profile.yaml").write_text(yaml.safe_dump(PROFILE))
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    found = faults(checks(str(tmp_path / "slurm")))
    assert any("sbatch is not on PATH" in check.finding for check in found.values())
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    for name in ("sbatch", "squeue", "scancel"):
        write_program(programs, name, "exit 0")
    write_program(programs, "sinfo", "echo cpu; echo long")
    write_program(programs, "sacct", "echo Slurm accounting storage is disabled >&2; exit 1")
    found = {check.name: check for check in faults(checks(str(tmp_path / "slurm"))).values()}
    assert found["partitions"].finding == "gpu: not in this cluster, which has cpu, long"
    assert "squeue" in found["accounting"].remedy
    assert "relabels" in found["rerun-triggers"].remedy


def test_a_folder_without_locks(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch()
    assert doctor._locking("results", path).verdict == doctor.OK
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # as where locks are not kept
    assert doctor._locking("results", path).verdict == doctor.FAULT


def test_a_clock_of_the_future(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.time, "time", lambda: tmp_path.stat().st_mtime - 3600)
    clock = [c for c in doctor.disk("results", tmp_path, 0.0) if c.name == "clock"]
    assert clock[0].verdict == doctor.FAULT
    assert "+36" in clock[0].finding


def test_a_tiny_job_of_each_kind(tmp_path):
    campaign(tmp_path)
    source = tmp_path / "trial.yaml"
    label = run_trial("label", source, "methanol", threads=1, limit_s=300, tiny=True)
    assert label["core_seconds"] > 0
    assert doctor.judged("xtb job", label, "auto").verdict == doctor.OK
    model = run_trial("model", source, "methanol", threads=1, limit_s=600, tiny=True)
    assert model["seconds_per_replica_step"] > 0
    assert doctor.judged("MACE job", model, "auto").verdict == doctor.OK
    late = run_trial("label", source, "methanol", threads=1, limit_s=0.05)
    assert "not done after 0.05 s" in late["error"]
    assert "--limit" in doctor.judged("xtb job", late, "auto").remedy


def test_the_command_tells_and_exits(tmp_path, capsys):
    campaign(tmp_path, reference={"backend": "cp2k", "level": "no.yaml"})
    options = ["doctor", "--configfile", str(tmp_path / "trial.yaml"), "--limit", "0.05"]
    assert main([*options, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["faults"] >= 2
    assert {"name", "verdict", "found", "remedy"} == found["checks"][0].keys()


@pytest.mark.parametrize(
    ("result", "verdict", "remedy"),
    [
        ({"largest_force_difference_eV_per_A": 0.004}, "ok", ""),
        ({"largest_force_difference_eV_per_A": 0.25}, "warning", "raise CUTOFF"),
        ({"error": "not done after 300 s", "timeout": True}, "warning", "raise --limit"),
        ({"error": "crashed"}, "warning", "see the check of the CP2K job"),
    ],
)
def test_a_grid_that_is_too_coarse_is_a_warning(result, verdict, remedy):
    check = doctor.judged_grid({"about": "it", "trial_s": 3.0} | result)
    assert check.verdict == verdict
    assert remedy in check.remedy


def test_the_finer_grid_differs_in_its_cutoffs_alone():
    level = read_level(ROOT / "config/cp2k/pbe-d3-dzvp.yaml")
    finer = level.finer(1.5)
    assert level.dft["+MGRID"]["CUTOFF"] == 300, "the level itself stays"
    assert finer.dft["+MGRID"]["CUTOFF"] == 450
    assert finer.dft["+MGRID"]["REL_CUTOFF"] == 75
    finer.dft["+MGRID"] |= {"CUTOFF": 300, "REL_CUTOFF": 50}
    assert finer.tree == level.tree
