"""Folders that are moved, read-only, someone else's, or from the future: clear outcomes."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

NOTHING = "Nothing to be done"
NOBODY = 65534
ORDINARY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Root that has to keep to the permissions of files: someone else, wherever Python lies."""
root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give files to someone else")


@pytest.fixture
def copy(checkout, finished):  # noqa: ARG001
    """A finished campaign in another place, where everybody may read."""
    folder = Path(f"/var/tmp/halcyon-moved-{os.getpid()}")  # noqa: S108 - pytest's is private
    shutil.copytree(checkout.folder, folder, symlinks=True)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def snakemake(checkout, folder, *more, before=()):
    """Exit code of a run in a folder, and what it printed."""
    done = subprocess.run(
        [*before, *checkout.command("undisturbed.yaml", *more)],
        cwd=folder,
        env=checkout.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_campaign_may_be_moved(checkout, copy):
    code, said = snakemake(checkout, copy, "-n")
    assert code == 0, said
    assert NOTHING in said
    (copy / "results/undisturbed/methanol/gen001/verdict.json").unlink()
    code, said = snakemake(checkout, copy)
    assert code == 0, said
    assert str(checkout.folder) not in said
    assert (copy / "results/undisturbed/methanol/gen001/verdict.json").exists()


def test_files_from_the_future_repeat_nothing(checkout, copy):
    later = time.time() + 10 * 86400
    for name in ("teacher/frames.parquet", "gen000/model.model", "seed/labels/000.parquet"):
        os.utime(copy / "results/undisturbed/methanol" / name, (later, later))
    code, said = snakemake(checkout, copy, "-n")
    assert code == 0, said
    assert NOTHING in said


@root
def test_someone_else_may_look_and_is_told_why_not_more(checkout, copy):
    for path in (copy, *copy.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    # Snakemake's own records are for their owner's eyes, a dry run too; Halcyon's are not.
    status = [Path(sys.executable).with_name("halcyon"), "status", "undisturbed.yaml"]
    looked = subprocess.run(
        [*ORDINARY, *status],
        cwd=copy,
        env=checkout.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert looked.returncode == 0, looked.stderr
    assert "methanol" in looked.stdout
    code, said = snakemake(checkout, copy, before=ORDINARY)
    assert code != 0
    assert "results/undisturbed: nothing can be written here (Permission denied)" in said
    assert "halcyon status" in said
    assert "Traceback" not in said


@root
def test_a_read_only_folder_is_one_clear_message(checkout, copy):
    results = copy / "results"
    script = f"mount --bind '{results}' '{results}' && mount -o remount,ro,bind '{results}' && "
    script += 'exec "$@"'
    apart = ("unshare", "--mount", "bash", "-c", script, "bash")
    if subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("no right to mount")
    code, said = snakemake(checkout, copy, before=apart)
    assert code != 0
    assert "nothing can be written" in said
    assert "Read-only file system" in said
    assert "Traceback" not in said
