"""`kill -9` of a label job at random moments: one record a frame, none computed twice."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from conftest import ROOT
from halcyon import jsonl
from halcyon.campaign.campaign import Campaign
from halcyon.frames import read_frames, structure_key, write_frames
from halcyon.labels.journal import NAME
from halcyon.labels.store import LabelStore
from halcyon.labels.store_tools import verify

FRAMES = 25
CHECKED = 2
"""Calculations beside one frame, for its forces."""
SLOW = """
import os, time
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from halcyon.frames import structure_key

class Springs(Calculator):
    '''A spring between any two atoms; every calculation that begins is a line of a file.'''
    implemented_properties = ["energy", "forces"]

    def __init__(self, folder):
        super().__init__()
        self.log = os.path.join(folder, "log")

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        line = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(line, structure_key(atoms).encode() + b"\\n")
        os.close(line)
        time.sleep(0.01)
        apart = atoms.positions[:, None] - atoms.positions[None]
        length = np.linalg.norm(apart, axis=2)
        np.fill_diagonal(length, 1.0)
        stretch = length - 1.0
        self.results = {
            "energy": float((stretch**2).sum() / 2),
            "forces": -2 * (apart * (stretch / length)[..., None]).sum(axis=1),
        }
"""


@pytest.fixture
def job(tmp_path, rattled):
    """Words of a label job of its own campaign, its scratch folder, and the calculator's log."""
    (tmp_path / "springs.py").write_text(SLOW)
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems/water.yaml").write_text(
        "name: water\nstructures: [{name: water, smiles: O}]\n"
    )

    def make(name, backend):
        # A folder: the content of a file would be part of the level of theory.
        (tmp_path / f"{name}-log").mkdir()
        log = tmp_path / f"{name}-log/log"
        references = {
            "xtb": {"backend": "xtb"},
            "ase": {
                "backend": "ase",
                "calculator": "springs.Springs",
                "arguments": {"folder": str(log.parent)},
            },
        }
        content = {
            "campaign": name,
            "systems": ["water"],
            "reference": references[backend],
            "results": str(tmp_path / "results"),
            "label_store": str(tmp_path / f"store-{name}"),
            "systems_folder": str(tmp_path / "systems"),
        }
        campaign = Campaign.resolve(content, "test")
        campaign.write()
        frames = rattled(FRAMES)
        for frame in frames:
            frame.info |= {"key": structure_key(frame), "split": "train"}
        batch = campaign.folder / "water/seed"
        write_frames(batch / "selected.parquet", frames)
        words = f"--campaign {campaign.file} --system water --batch seed --shard 0 --of 1"
        files = ["--selected", batch / "selected.parquet", "--out", batch / "labels/000.parquet"]
        work = campaign.folder / "work/water/start/label/seed-000"
        label = [ROOT / "scripts/label.py", *words.split(), *files]
        return [str(word) for word in label], str(work), str(log)

    return make


@pytest.mark.parametrize(("backend", "kills"), [("ase", 30), ("xtb", 20)])
def test_killed_at_any_moment_each_frame_has_one_record(job, tmp_path, backend, kills):
    rounds = [job(f"round{number}", backend) for number in range(kills)]
    plan = {"seed": 7, "kills": kills, "frames": FRAMES}
    plan["undisturbed"] = job("undisturbed", backend)[0]
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"rounds": rounds}))
    paths = [tmp_path / "plan.json", tmp_path / "report.json"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(tmp_path)]),
        "OMP_NUM_THREADS": "1",
    }
    killer = Path(__file__).with_name("kill_label.py")
    subprocess.run([sys.executable, killer, *paths], env=environment, check=True, timeout=900)
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["kills"]) == kills
    # Kills hit all phases: before the first record, between records.
    numbers_of_records = {len(kill["journaled"]) for kill in report["kills"]}
    assert 0 in numbers_of_records
    assert any(number > 0 for number in numbers_of_records)

    for number, (words, work, log) in enumerate(rounds[: report["rounds"]]):
        selected = {f.info["key"] for f in read_frames(words[words.index("--selected") + 1])}
        labelled = read_frames(words[words.index("--out") + 1])
        assert Counter(frame.info["key"] for frame in labelled) == Counter(selected)
        assert {frame.info["status"] for frame in labelled} == {"ok"}
        journaled = [entry["info"]["key"] for entry in jsonl.read(Path(work) / NAME)]
        assert len(journaled) == len(set(journaled)) == FRAMES + CHECKED
        (level,) = Path(tmp_path, f"store-round{number}").glob("*/level.json")
        store = LabelStore(level.parents[1], json.loads(level.read_text()))
        checked = verify(store)
        assert (checked.labels, checked.repeated) == (FRAMES + CHECKED, 0)
        assert not checked.faults
        own_kills = [kill for kill in report["kills"] if kill["round"] == number]
        if backend == "ase":
            begun = Path(log).read_text().splitlines()
            assert set(begun) == set(journaled)
            # A kill costs the calculation under way; what the journal has is never begun again.
            assert len(begun) <= FRAMES + CHECKED + len(own_kills)
            for kill in own_kills:
                assert not set(kill["journaled"]) & set(begun[kill["begun"] :])
