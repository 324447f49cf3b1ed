"""Labels of a campaign from the real CP2K: killed and resumed, and frames that do not converge."""

import shutil
from collections import Counter

import numpy as np
import pytest
import yaml
from cheap_cp2k import CHEAP, TRUSTING
from test_campaign import kill_when

from halcyon import jsonl
from halcyon.frames import read_frames

pytestmark = pytest.mark.cp2k


def starts(checkout, campaign):
    """Structures CP2K was started for, with the number of starts."""
    logs = (checkout / f"results/{campaign}/work/water").rglob("cp2k_starts.log")
    return Counter(line.split()[1] for log in logs for line in log.read_text().splitlines())


def test_killed_while_labelling_no_label_is_computed_twice(cheap_level):
    checkout = cheap_level
    config = checkout.configure(
        "cp2k-killed",
        systems=["water"],
        reference=CHEAP,
        label_store="results/cp2k-labels",
        sanity=TRUSTING,
        seed_labels={"train": 3, "validation": 5, "test": 5},
    )
    targets = [f"results/cp2k-killed/water/seed/labels/00{shard}.parquet" for shard in (0, 1)]
    process = checkout.start(config, "--", *targets)
    journals = checkout / "results/cp2k-killed/work/water/start/label"
    kill_when(
        process,
        lambda: sum(len(jsonl.read(path)) for path in journals.rglob("*.jsonl")) >= 4,
    )
    finished_before = {
        entry["info"]["key"] for path in journals.rglob("*.jsonl") for entry in jsonl.read(path)
    }
    checkout.run(config, "--", *targets)
    labelled = [frame for target in targets for frame in read_frames(checkout / target)]
    assert len(labelled) == 13
    assert {frame.info["status"] for frame in labelled} == {"ok"}
    counted = starts(checkout, "cp2k-killed")
    assert set(counted) == {frame.info["key"] for frame in labelled}
    # Only the frame in progress in each of the two shards may have been started again.
    assert all(counted[key] == 1 for key in finished_before)
    assert sum(counted.values()) <= 13 + 2


def test_a_frame_that_does_not_converge_is_recorded_and_the_campaign_goes_on(cheap_level):
    checkout = cheap_level
    level = yaml.safe_load((checkout / "cheap.yaml").read_text())
    level["force_eval"]["dft"]["scf"]["max_scf"] = 9
    level["force_eval"]["dft"]["scf"].pop("outer_scf", None)
    (checkout / "impatient.yaml").write_text(yaml.safe_dump(level))
    shutil.rmtree(checkout / "results/cp2k-impatient", ignore_errors=True)
    config = checkout.configure(
        "cp2k-impatient",
        systems=["water"],
        reference=CHEAP | {"level": "impatient.yaml", "rescue": []},
        label_store="results/cp2k-labels",
        sanity=TRUSTING,
        seed_labels={"train": 3, "validation": 5, "test": 5},
    )
    targets = [f"results/cp2k-impatient/water/seed/labels/00{shard}.parquet" for shard in (0, 1)]
    checkout.run(config, "--", *targets)
    labelled = [frame for target in targets for frame in read_frames(checkout / target)]
    counts = Counter(frame.info["status"] for frame in labelled)
    assert len(labelled) == 13
    assert counts["unconverged"] >= 1
    for frame in labelled:
        assert ("energy" in frame.info) == (frame.info["status"] == "ok")
        if frame.info["status"] == "unconverged":
            assert frame.info["message"]
        else:
            assert np.isfinite(frame.arrays["forces"]).all()
