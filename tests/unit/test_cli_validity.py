"""What `benchmarks/cli_validity.py` makes of cells whose answer is known; nothing is trained."""

import importlib

import numpy as np
import pandas as pd
import pytest

from conftest import ROOT
from halcyon.verdict.forms import ReplicaEnd

ATOMS, TIMESTEP_FS, TRACE_FS, TIME_PS = 9, 0.5, 50.0, 4.0
MODELS = {
    "scratch-25-1": ("scratch", 60.0),
    "scratch-100-1": ("scratch", 30.0),
    "pretrained-25-1": ("pre-trained", 50.0),
    "pretrained-100-1": ("pre-trained", 40.0),
}
TEMPERATURES = (300.0, 600.0, 900.0)


@pytest.fixture(scope="module")
def part():
    """A module of the benchmark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module


def row(random, *, number, end_ps, time_ps, trace_fs, level):
    """`oracle` is outside in the last 0.5 ps before a failure, `noise` at random, `label` as often
    as model and temperature say, `guard` in every other replica."""
    failed = end_ps is not None
    end = end_ps if failed else time_ps
    at = np.append(np.arange(trace_fs / 1000, end - 1e-9, trace_fs / 1000), end)
    whole = len(at)
    oracle = np.where(failed & (at > end - 0.5), 90, 0)
    outside = {
        "label": random.poisson(level, whole),
        "guard": np.full(whole, number % 2),
        "oracle": oracle,
        "noise": random.integers(0, 200, whole),
    }
    counts = {name: values.tolist() for name, values in outside.items()}
    return {
        "replica": number,
        "end_ps": float(end),
        "failure": "bond broken" if failed else None,
        "outside": counts,
        "worst_atom": {name: [value // ATOMS for value in of] for name, of in counts.items()},
    }


def made_cells(seed=7):
    """Every other replica fails, at random times; λ of `label` rises with error and temperature."""
    random = np.random.default_rng(seed)
    cells = []
    for model, (group, error) in MODELS.items():
        for kelvin in TEMPERATURES:
            head = {"schema": 1, "plan": "x", "model": model, "group": group, "weights": "w"}
            head |= {"temperature_K": kelvin, "atoms": ATOMS, "timestep_fs": TIMESTEP_FS}
            level = error * kelvin / 1000
            ends = [
                round(random.integers(20, 75) * 0.05 + 0.02, 3) if number % 2 else None
                for number in range(16)
            ]
            options = {"time_ps": TIME_PS, "trace_fs": TRACE_FS}
            rows = [
                row(random, number=i, end_ps=end, level=level, **options)
                for i, end in enumerate(ends)
            ]
            cells.append(
                head | options | {"kind": "dynamics", "judged_ps": TIME_PS, "replicas": rows}
            )
            drifts = [
                {"replica": i, "failure": None, "drift_meV_per_atom_ps": level * (1 + 0.01 * i)}
                for i in range(7)
            ]
            drifts.append({"replica": 7, "failure": "bond broken", "drift_meV_per_atom_ps": None})
            cells.append(head | {"kind": "nve", "replicas": drifts})
        options = {"time_ps": 5 * TIME_PS, "trace_fs": 500.0}
        rows = [  # of those that guard calls saturated, the even ones, none fails
            row(random, number=i, end_ps=10.0 if i % 2 else None, level=level, **options)
            for i in range(8)
        ]
        rows.append(row(random, number=9, end_ps=2.0, level=level, **options))  # not judged
        cells.append(head | options | {"kind": "extension", "judged_ps": TIME_PS, "replicas": rows})
    return cells


def made_models():
    return [
        {
            "kind": "model",
            "plan": "x",
            "model": name,
            "force_mae_meV_per_A": {f"{k:g}": error * k / 300 for k in TEMPERATURES},
        }
        for name, (_, error) in MODELS.items()
    ]


@pytest.fixture(scope="module")
def summary(part):
    return part("validity.statistics").summarised(made_cells(), made_models(), resamples=60)


def test_a_signal_that_knows_foretells_and_noise_does_not(summary):
    known, noise = summary["auroc"]["oracle"], summary["auroc"]["noise"]
    assert known["value"] == known["low"] == known["high"] == 1.0
    assert noise["low"] < 0.5 < noise["high"]
    for group in ("scratch", "pre-trained", "within cells"):
        assert summary["foretelling"][group]["oracle"]["rate"]["auroc"]["value"] == 1.0
    lead = summary["lead_time_fs"]
    assert 400 <= lead["oracle"]["value"] <= 500
    assert lead["oracle"]["warned"]["value"] == 1.0
    assert lead["noise"]["value"] < 400


def test_what_the_cell_alone_foretells_does_not_count_within_cells(summary):
    thermometer = summary["foretelling"]["within cells"]["thermometer"]["rate"]["auroc"]
    assert thermometer["value"] == pytest.approx(0.5)


def test_at_one_temperature_only_what_differs_between_models_counts(summary):
    found = summary["foretelling"]["one temperature"]
    assert found["thermometer"]["rate"]["auroc"]["value"] == pytest.approx(0.5)
    assert found["oracle"]["rate"]["auroc"]["value"] == 1.0
    assert found["oracle"]["rate"]["gain"]["over"] == "recipe"
    recipe = found["recipe"]["rate"]["auroc"]["value"]
    assert found["oracle"]["rate"]["gain"]["value"] == pytest.approx(1 - recipe)


def test_a_warning_fades_with_the_horizon(summary):
    auroc = {
        horizon: found["oracle"]["rate"]["auroc"]["value"]
        for horizon, found in summary["horizons_ps"].items()
    }
    assert auroc["0.5"] == 1.0  # `oracle` warns 0.5 ps before
    assert auroc["1"] < 0.95


def test_the_sum_of_two_rates_is_a_score_of_its_own(part):
    _, scores = part("validity.foretelling").collected(made_cells()[:1])
    both = scores["label", "rate"] + scores["guard", "rate"]
    assert np.allclose(scores["label + guard", "rate"], both)
    assert both.max() > 0


def replica_end(number, time_ps, failure):
    return ReplicaEnd(
        replica=number,
        structure="molecule",
        temperature_K=300.0,
        atoms=ATOMS,
        time_ps=time_ps,
        failure=failure,
    )


@pytest.mark.parametrize(("end_ps", "known"), [(2.0, True), (1.5, True), (0.9, False)])
def test_drift_is_the_slope_of_the_total_energy(part, end_ps, known):
    module = part("validity.runs")
    time_ps = np.arange(0.0005, end_ps + 1e-9, 0.0005)
    kinetic = 0.3 + 0.1 * np.sin(300 * time_ps)
    trace = pd.DataFrame({"time": time_ps, "potential_energy": 1 - kinetic + 0.009 * time_ps})
    trace["kinetic_energy"] = kinetic
    failure = None if end_ps == 2.0 else "bond broken"
    if failure:  # the point of the failure itself does not count
        trace.loc[trace.index[-1], "potential_energy"] = np.nan
    replica = replica_end(0, end_ps, failure)
    found = module.drift(trace, replica, nve_ps=2.0)
    assert found == (pytest.approx(1.0) if known else None)


def test_correlations_find_what_was_put_in(summary):
    for key in ("rho_temperature", "rho_quality", "rho_error", "rho_drift"):
        found, noise = summary[key]["label"], summary[key]["noise"]
        assert found["value"] > 0.9
        assert found["low"] <= found["value"] <= found["high"]
        assert noise["low"] <= 0.5
    assert summary["rho_drift"]["label"]["at_fixed_temperature"]["value"] > 0.9
    # Half of the replicas fail everywhere: nothing to correlate with.
    assert summary["rho_failure"]["label"]["value"] is None


def test_saturated_replicas_are_followed_to_the_end(summary):
    guard = summary["saturated_survival"]["guard"]
    assert (guard["successes"], guard["of"]) == (16, 16)
    assert (guard["not_saturated"]["successes"], guard["not_saturated"]["of"]) == (0, 16)
    assert 0.75 < guard["low"] < guard["high"] == 1.0
    assert guard["times_as_long"] == 5
    assert guard["auroc"]["value"] == 1.0


def test_without_failures_there_are_reasons_instead_of_numbers(part):
    cells = [cell for cell in made_cells() if cell["kind"] == "dynamics"]
    for cell in cells:
        cell["replicas"] = [entry for entry in cell["replicas"] if entry["failure"] is None]
    found = part("validity.statistics").summarised(cells, made_models(), resamples=20)
    assert found["auroc"]["oracle"]["outcome"] == "not enough failures"
    assert found["saturated_survival"] == found["rho_drift"] == {}
    assert found["rho_temperature"]["oracle"]["value"] == 0.0  # silent everywhere


def test_cells_keep_exact_counts_on_their_own_grid(part):
    steps = {0: [20, 40], 1: [20, 30]}  # replica 1 fails at step 30
    frame = pd.DataFrame(
        [
            {
                "replica": replica,
                "time": step * 0.0005,
                "cli_label": 0.0005 * step / ATOMS,
                "cli_label_max": 0.0005 * step,
                "rate_label": 1 / ATOMS,
            }
            for replica, at in steps.items()
            for step in at
        ]
    )
    ends = [
        replica_end(0, 0.02, None),
        replica_end(1, 0.015, "bond broken"),
    ]
    rows = part("validity.runs").condensed(frame, ends, timestep_ps=0.0005)
    assert [entry["outside"]["label"] for entry in rows] == [[20, 20], [20, 10]]
    assert [entry["worst_atom"]["label"] for entry in rows] == [[20, 20], [20, 10]]


def test_the_extension_runs_where_replicas_differ(part):
    module = part("cli_validity")
    plan = module.Plan(temperatures_K=TEMPERATURES)
    model = module.Model("scratch", 25, 1)
    cells = [cell for cell in made_cells() if cell["model"] == model.name]
    assert module.extension_temperature(plan, model, cells[:2]) is None
    assert module.extension_temperature(plan, model, cells) == 900


def test_summary_computes_nothing_and_writes_all(part, tmp_path, capsys):
    module = part("cli_validity")
    for number, cell in enumerate(made_cells()[:14]):  # two models
        module.write_cell(tmp_path / "cells" / f"{number}.json", cell)
    for model in made_models():
        module.write_cell(tmp_path / "cells" / f"{model['model']}.json", {"schema": 1} | model)
    written, figures = tmp_path / "validity.json", tmp_path / "figures"
    options = f"--summary --resamples 20 --cells {tmp_path}/cells --json {written}"
    module.main([*options.split(), "--plots", str(figures)])
    found = module.files.read_json(written)
    for key in ("auroc", "lead_time_fs", "rho_temperature", "rho_quality"):
        assert {"low", "high"} <= found[key]["label"].keys()
    for key in ("saturated_survival", "rho_drift"):
        assert {"low", "high"} <= found[key]["guard"].keys()
    assert len(list(figures.glob("*.png"))) == 3
    assert "thermometer" in capsys.readouterr().out


def test_cells_of_other_settings_are_refused(part, tmp_path):
    module = part("cli_validity")
    cell = next(iter(made_cells()))
    module.write_cell(tmp_path / "0.json", cell)
    assert module.read_cell(tmp_path / "0.json") == cell
    with pytest.raises(module.InputError, match="other settings"):
        module.read_cell(tmp_path / "0.json", module.Plan())
    module.write_cell(tmp_path / "1.json", cell | {"plan": "y"})
    with pytest.raises(module.InputError, match="different settings"):
        module.read_all(tmp_path)


def test_cli_validity_explains_itself(part, capsys):
    with pytest.raises(SystemExit) as ended:
        part("cli_validity").main(["--help"])
    assert ended.value.code == 0
    assert "--summary" in capsys.readouterr().out
