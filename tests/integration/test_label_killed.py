"""kill -9 of a label shard with the real CP2K, again and again."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from ase import Atoms

from halcyon import jsonl
from halcyon.campaign.campaign import Campaign
from halcyon.frames import read_frames, structure_key, write_frames
from halcyon.labels.store import LabelStore
from halcyon.labels.store_tools import verify

pytestmark = [
    pytest.mark.cp2k,
]
ROOT = Path(__file__).parents[2]
KILLS = 5


def hydrogen(bond):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, bond]], cell=[6.0] * 3)
    atoms.info = {"charge": 0, "multiplicity": 1, "structure": "methanol", "split": "train"}
    return atoms


@pytest.fixture
def campaign(tmp_path):
    content = {
        "campaign": "killed",
        "systems": ["methanol"],
        "systems_folder": str(ROOT / "config/systems"),
        "results": str(tmp_path / "results"),
        "label_store": str(tmp_path / "store"),
        "reference": {"backend": "cp2k", "level": str(ROOT / "tests/data/cp2k/small.yaml")},
    }
    campaign = Campaign.resolve(content, "killed.yaml")
    campaign.write()
    return campaign


def finished(work):
    """Keys with a whole line in the journal."""
    return {entry["info"]["key"] for entry in jsonl.read(work / "journal.jsonl")}


def starts(work):
    log = work / "cp2k_starts.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.split()[1] for line in lines)


def children_of(folder):
    """CP2K processes whose working folder is in this one."""
    names = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = str((process / "cwd").readlink()).startswith(str(folder))
            zombie = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if inside and not zombie:
            names.append(process.name)
    return names


def test_killed_again_and_again_every_frame_has_one_record_and_none_is_paid_twice(
    tmp_path, campaign
):
    frames = [hydrogen(bond) for bond in (0.70, 0.74, 0.78, 0.9, 1.1, 0.66, 0.72, 0.82)]
    frames.insert(2, hydrogen(1e-4))  # too close: a record, too, and never tried again
    write_frames(tmp_path / "selected.parquet", frames)
    out = tmp_path / "labels.parquet"
    work = campaign.work("methanol", "start", "label") / "seed-000"
    command = [sys.executable, str(ROOT / "scripts/label.py"), "--campaign", str(campaign.file)]
    command += ["--system", "methanol", "--batch", "seed", "--shard", "0", "--of", "1"]
    command += ["--selected", str(tmp_path / "selected.parquet"), "--out", str(out)]
    moments = random.Random(20261121)
    for _ in range(KILLS):
        before, already = starts(work), finished(work)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        while starts(work) == before and process.poll() is None:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.8))
        assert process.poll() is None, "ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)  # the job alone: CP2K has to notice by itself
        process.wait()
        for _ in range(100):  # MPI's daemon notices a moment later than CP2K
            if not children_of(work):
                break
            time.sleep(0.1)
        assert children_of(work) == []
        assert already <= finished(work)
        # What was known before the job began was not computed once more.
        assert all(starts(work)[key] == before[key] for key in already)
    before, already = starts(work), finished(work)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert all(starts(work)[key] == before[key] for key in already)

    keys = [structure_key(frame) for frame in frames]
    labelled = read_frames(out)
    assert [frame.info["key"] for frame in labelled] == keys
    statuses = [frame.info["status"] for frame in labelled]
    assert statuses == ["ok", "ok", "crashed", *["ok"] * 6]
    checked = finished(work) - set(keys)
    assert len(checked) == 2  # beside one frame, to hold its forces against its energy
    assert finished(work) > set(keys)
    assert sum(starts(work).values()) <= len(frames) + len(checked) + KILLS
    store = LabelStore(campaign.settings.label_store, campaign.reference().level)
    verified = verify(store)
    # The frame that failed is kept beside the labels, so that nobody pays for it again.
    assert (verified.labels, verified.repeated, verified.damaged, verified.faults) == (11, 0, 0, [])
    assert list((work / "wavefunctions").iterdir()) == []
