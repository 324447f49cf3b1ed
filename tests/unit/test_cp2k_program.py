"""Starting CP2K through launchers that do not: a failure of the job, and of no frame."""

import re
import subprocess

import pytest

from halcyon.config import Cp2kReference
from halcyon.labels.reference.base import NotStartedError
from halcyon.labels.reference.cp2k import program
from halcyon.labels.reference.cp2k.program import Program

ABORT = """\
 *******************************************************************************
 *   ___                                                                       *
 *  /   \\                                                                      *
 * [ABORT]                                                                     *
 *  \\___/    found an unknown section                                          *
 *    |                                                                        *
 *  O/|                                                                        *
 * /| |                                                                        *
 * / \\                                            input_parsing.F:250          *
 *******************************************************************************
"""


@pytest.fixture
def run(tmp_path):
    """Run a script in the place of launcher and CP2K, in a frame's folder."""

    def start(script, timeout_s=20.0):
        launcher = tmp_path / "srun"
        launcher.write_text(f"#!/bin/sh\n{script}\n")
        launcher.chmod(0o755)
        folder = tmp_path / "frame"
        folder.mkdir()
        command = f"{launcher} -n 2 cp2k.psmp"
        settings = Cp2kReference(
            backend="cp2k", level=tmp_path / "level.yaml", command=command, data_dir=tmp_path
        )
        return Program(settings).run(folder, cores=2, timeout_s=timeout_s)

    return start


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'srun: error: task 0 launch failed: Unspecified error'; exit 1", "launch failed"),
        ("echo 'cp2k.psmp: error while loading shared libraries' >&2; exit 127", "status 127"),
        ("kill -9 $$", "exit status -9; its last lines: nothing"),
        ("exit 0", "exit status 0; its last lines: nothing"),
    ],
)
def test_a_launcher_that_does_not_start_cp2k_fails_the_job(run, script, expected):
    with pytest.raises(NotStartedError, match=expected) as failure:
        run(script)
    assert re.match(
        r"reference\.command = '.*srun -n 2 cp2k\.psmp': CP2K did not start", str(failure.value)
    )


@pytest.mark.parametrize(
    ("script", "status"),
    [
        # What CP2K has written to its output is seen only later, that it has opened it at once.
        ("echo 'srun: error: task 0: Killed'; : > cp2k.out; kill -9 $$", -9),
        (": > cp2k.out; exit 1", 1),
        (f"cat <<'END'\n{ABORT}END\nexit 1", 1),  # before it has opened its output
    ],
)
def test_cp2k_that_dies_after_it_began_is_the_frames_own_affair(run, script, status):
    assert run(script) == status


def test_a_launcher_that_hangs_fails_the_job(run, monkeypatch):
    monkeypatch.setattr(program, "START_TIMEOUT_S", 0.2)
    waits = "echo 'srun: job 7 queued and waiting for resources'; sleep 60"
    with pytest.raises(
        NotStartedError, match=r"it wrote no output in 0\.3 s.*waiting for resources"
    ):
        run(waits, timeout_s=0.3)


def test_cp2k_that_takes_too_long_is_late(run, monkeypatch):
    monkeypatch.setattr(program, "START_TIMEOUT_S", 0.2)
    with pytest.raises(subprocess.TimeoutExpired):
        run(": > cp2k.out; sleep 60", timeout_s=0.5)


def test_a_frame_with_little_time_left_is_late_even_if_cp2k_has_not_begun(run):
    with pytest.raises(subprocess.TimeoutExpired):
        run("sleep 60", timeout_s=0.1)


def test_a_command_that_is_gone_fails_the_job(tmp_path):
    settings = Cp2kReference(
        backend="cp2k", level=tmp_path / "level.yaml", command="no-such-cp2k", data_dir=tmp_path
    )
    with pytest.raises(NotStartedError, match="No such file"):
        Program(settings).run(tmp_path, cores=1, timeout_s=5)
