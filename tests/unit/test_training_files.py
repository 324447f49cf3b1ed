"""`metrics.json` and `drift.json`: of today, of the first release, damaged, and of a later one."""

import json

import pytest

from conftest import ROOT
from halcyon.errors import InputError
from halcyon.models.drift import Drift
from halcyon.models.metrics import Metrics

DATA = ROOT / "tests/data/models"


def test_metrics_of_the_first_release_are_read():
    # Written by 0.1.0's first campaigns; of the learning curve only some epochs are kept.
    metrics = Metrics.read(DATA / "first-metrics.json")
    assert metrics.test.frames == 20
    assert metrics.test.forces_mae_meV_per_A == pytest.approx(47.66, abs=0.01)
    assert metrics.best_epoch == metrics.curve[-1].of == 225
    assert metrics.e0s_eV[8] == pytest.approx(-7.495, abs=1e-3)
    assert metrics.frames_without_label == 0
    assert Metrics.read(DATA / "first-pretrained.json").frames_without_label is None


def test_metrics_are_written_as_before_but_for_the_schema(tmp_path):
    for name in ("first-metrics.json", "first-pretrained.json"):
        Metrics.read(DATA / name).write(tmp_path / name)
        written, before = (json.loads((f / name).read_text()) for f in (tmp_path, DATA))
        later = {"frames_without_label": None, "learning": None, "forgetting": None}
        assert _without_stress(written) == {"schema": 1} | later | before
        assert Metrics.read(tmp_path / name) == Metrics.read(DATA / name)


def _without_stress(metrics):
    """Metrics without the keys of labels with a stress, which no label had then."""
    assert metrics.pop("stress_weight") == 0
    for epoch in metrics["curve"]:
        assert epoch.pop("stress_mae_GPa") is None
    return metrics


def test_drift_is_written_as_it_was_read(tmp_path):
    drift = Drift.read(DATA / "drift.json")
    assert drift.frames == 35
    assert drift.before["ethanol:H0"].atoms == 105
    drift.write(tmp_path / "drift.json")
    assert (tmp_path / "drift.json").read_bytes() == (DATA / "drift.json").read_bytes()


@pytest.mark.parametrize("form", [Metrics, Drift])
def test_a_damaged_or_later_file_is_named_with_what_to_do(tmp_path, form):
    path = tmp_path / "file.json"
    path.write_text('{"schema": 99}')
    with pytest.raises(InputError, match=r"file\.json: schema = 99: .* update Halcyon"):
        form.read(path)
    path.write_text('{"curve": 3}')
    with pytest.raises(InputError, match=r"file\.json: damaged: .*Delete this file"):
        form.read(path)
    path.write_text("[]")
    with pytest.raises(InputError, match=r"file\.json: damaged: not a JSON object"):
        form.read(path)
