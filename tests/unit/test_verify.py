"""What `verify` finds where somebody has made all hashes fit again.

Not for: files that were changed after the certificate (`test_certificate`).
"""

import pytest
from test_certificate import changed, faults, original, path  # noqa: F401 - fixtures

from halcyon.final import certificate
from halcyon.final.certificate import sha256_of
from halcyon.frames import read_frames, write_frames

LABELS = ("seed", "gen000")


def forge(certified, change):
    """Change the labelled frames, and every hash with them."""
    folder = certified.parents[1]
    frames = {name: read_frames(folder / f"{name}.parquet") for name in LABELS}
    change([frame for name in LABELS for frame in frames[name]])
    for name in LABELS:
        write_frames(folder / f"{name}.parquet", frames[name])

    def fit(content):
        for entry in content["data"]["files"]:
            entry["sha256"] = sha256_of(certified.parent / entry["path"])
        every = [frame for name in LABELS for frame in frames[name]]
        content["data"]["sha256"] = certificate.data_digest(every)

    changed(certified, fit)


def another_structure(frames):
    frames[0].positions[0] += 0.1


def another_level(frames):
    frames[0].info["level"] = "of somebody else"


def another_force(frames):
    frames[0].arrays["forces"][0] += 1e-6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (another_structure, "each level the certificate's: not so for 1 frame"),
        (another_level, "each level the certificate's: not so for 1 frame"),
        (another_force, "1 label of other content and 0 missing"),
    ],
)
def test_labels_that_fit_every_hash_are_still_held_against_keys_level_and_store(
    path,  # noqa: F811
    change,
    said,
):
    forge(path, change)
    assert any(said in fault for fault in faults(path)), faults(path)
    assert not any("sha256 differs" in fault or "a hash differs" in fault for fault in faults(path))


def test_replicas_that_begin_elsewhere_are_found(path):  # noqa: F811
    tested = next(
        frame.info["key"]
        for frame in read_frames(path.parents[1] / "seed.parquet")
        if frame.info["split"] == "test"
    )
    changed(path, lambda told: told["runs"][0]["replicas"][0].update(start_key=tested))
    assert any("start from frames that were learned: not so for 1" in text for text in faults(path))


def test_findings_of_another_temperature_are_found(path):  # noqa: F811
    changed(path, lambda told: told["runs"][0]["findings"][1].update(temperature_K=900.0))
    assert any("computed again" in text for text in faults(path))
