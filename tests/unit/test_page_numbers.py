"""Every figure and table of the page against the files, computed again here by other means.

The generations of the campaign differ, so that one cannot stand for the other.
"""

import json

import numpy as np
import pandas as pd
import pytest

from halcyon import files
from halcyon.frames import read_frames, write_frames
from toy_campaign import TIME_PS, curve, show, write_diagnoses

LATE_FAILURE_PS = 1.5
FATES = {"selected": 3, "dropped: atoms overlap": 2, "dropped: force above the cap": 5}
SECONDS = {"ok": 10.0, "unconverged": 100.0, "crashed": 1000.0}
"""Of a label calculation, by how it ended."""


@pytest.fixture
def made(toy, rattled):
    """Campaign and verdicts; in generation 1 a replica fails late."""
    campaign, verdicts = toy()
    write_diagnoses(verdicts, rattled)
    folder = verdicts[1].parent
    traces = pd.read_parquet(folder / "traces.parquet")
    gone = (traces["replica"] == 3) & (traces["time"] > LATE_FAILURE_PS)
    traces[~gone].to_parquet(folder / "traces.parquet")
    exploration = files.read_json(folder / "exploration.json")
    exploration["replicas"][3] |= {"time_ps": LATE_FAILURE_PS, "failure": "bond broken"}
    files.write_json(folder / "exploration.json", exploration)
    files.write_json(folder / "selection.json", {"candidates": 10, "fates": FATES})
    verdict = files.read_json(verdicts[1])
    verdict["saturation"] |= {"rate_per_atom_ps": 0.02, "rate_bound_per_atom_ps": 0.07}
    files.write_json(verdicts[1], verdict)
    (folder / "model.model").write_bytes(b"another model")
    for path in folder.parent.glob("*/labels/*.parquet"):
        frames = read_frames(path)
        for frame in frames:
            frame.info["core_seconds"] = SECONDS[frame.info["status"]]
        write_frames(path, frames)
    return campaign, verdicts


@pytest.fixture
def page(made):
    return show(*made)


@pytest.fixture
def traces(made):
    return [pd.read_parquet(verdict.parent / "traces.parquet") for verdict in made[1]]


def test_axes_say_their_unit(page):
    # The toy's files are in ps, eV, eV/Å and s; errors in meV and meV/Å.
    expected = {
        "cli-label": ("simulated time, ps", "Λ, mean over atoms, ps"),
        "cli-guard": ("simulated time, ps", "Λ, mean over atoms, ps"),
        "rate-temperature": ("temperature of the thermostat, K", "λ in the late window"),
        "excursions": ("generation", "excursions per atom, 1/ps"),
        "survival": ("simulated time of a replica, ps", "replicas that have not failed"),
        "learning": ("training labels", "test force MAE, meV/Å"),
        "learning-energy": ("training labels", "test energy MAE, meV/atom"),
        "learning-rate": ("training labels", "λ in the late window"),
        "parity-force": ("label, eV/Å", "model, eV/Å"),
        "parity-energy": ("label, eV/atom", "model, eV/atom"),
        "training-forces": ("epoch", "validation force MAE, meV/Å"),
        "stages": ("core time, min", None),
        "label-costs": ("core time, min", None),
        "teacher-energy-water": ("energy above the lowest, eV/atom", "frames"),
        "teacher-force-water": ("largest force on an atom, eV/Å", "frames"),
    }
    titles = {
        name: tuple(
            page.figures[name]["layout"][axis].get("title", {}).get("text")
            for axis in ("xaxis", "yaxis")
        )
        for name in expected
    }
    assert titles == expected


@pytest.mark.parametrize("tier", ["label", "guard"])
def test_each_domain_has_its_own_curves(page, traces, tier):
    for number in (0, 1):
        curves = page.figures[f"cli-{tier}"]["data"][3 * number]
        assert curves["meta"] == number
        last = traces[number].groupby("replica").last()
        ends = [i - 1 for i, x in enumerate(curves["x"]) if x is None]
        assert [curves["x"][i] for i in ends] == pytest.approx(last["time"].tolist())
        expected = last[f"cli_{tier}"].tolist()
        assert [curves["y"][i] for i in ends] == pytest.approx(expected, rel=1e-3)


def test_a_replica_that_failed_late_is_in_no_mean_of_the_late_window(page, traces):
    plateau = page.figures["cli-label"]["data"][5]
    curves = traces[1][traces[1]["replica"] < 3].set_index("time").groupby("replica")["cli_label"]
    expected = [np.mean([each.loc[time] for _, each in curves]) for time in (1.0, TIME_PS)]
    assert plateau["y"] == pytest.approx(expected, rel=1e-3)
    assert page.figures["cli-label"]["data"][4]["x"] == [LATE_FAILURE_PS]
    # λ is what Λ gained over the time that it took.
    rate = (expected[1] - expected[0]) / (TIME_PS - 1)
    assert page.figures["learning-rate"]["data"][0]["y"][1] == pytest.approx(rate, rel=1e-3)
    mean = page.figures["rate-temperature"]["data"][3]
    assert mean["y"] == pytest.approx([rate], rel=1e-3)
    assert mean["customdata"][0][1] == 3


def test_the_late_window_is_the_settings(page):
    (window,) = page.figures["cli-label"]["layout"]["shapes"]
    assert (window["x0"], window["x1"]) == (TIME_PS / 2, TIME_PS)


def test_bars_of_rates_end_at_their_bounds_and_the_line_is_the_limit(page):
    figure = page.figures["excursions"]
    for trace, rate, bound in zip(figure["data"], (0.0123, 0.02), (0.0456, 0.07), strict=True):
        assert trace["y"] == [rate]
        assert rate + trace["error_y"]["array"][0] == pytest.approx(bound)
        assert trace["error_y"]["arrayminus"] == [0]
    (line,) = figure["layout"]["shapes"]
    assert (line["y0"], line["y1"]) == (0.1, 0.1)


def test_errors_stand_over_the_labels_that_were_trained_on(page):
    for name, errors in (("learning", [123.4, 61.7]), ("learning-energy", [5.67, 5.67])):
        (trace,) = page.figures[name]["data"]
        assert (trace["x"], trace["y"]) == ([21, 26], errors)
    assert page.figures["learning-rate"]["data"][0]["x"] == [21, 26]


@pytest.mark.parametrize(
    ("figure", "key"),
    [
        ("training-loss", "loss"),
        ("training-forces", "forces_mae_meV_per_A"),
        ("training-energy", "energy_mae_meV_per_atom"),
    ],
)
def test_curves_of_training_are_those_of_the_files(page, figure, key):
    first, second, before = page.figures[figure]["data"]
    for trace, epochs, error in ((first, 9, 100), (second, 9, 50), (before, 25, 900)):
        expected = [getattr(entry, key) for entry in curve(epochs, error)]
        assert trace["y"] == pytest.approx(expected, rel=1e-3)
    assert np.flatnonzero(first["marker"]["size"]) == [6]  # epoch 7 was kept
    assert not any(before["marker"]["size"])


def test_every_candidate_is_counted_by_its_fate(page):
    bars = {bar["name"]: bar["x"] for bar in page.figures["fates"]["data"]}
    assert bars == {
        "selected": [6, 3],
        "dropped: atoms overlap": [4, 2],
        "dropped: force above the cap": [0, 5],
    }
    assert [sum(column) for column in zip(*bars.values(), strict=True)] == [10, 10]
    for name, counts in bars.items():
        assert page.column("fates-table", name.capitalize()) == [str(n) for n in counts]


def test_labels_are_counted_by_outcome_and_cost(page):
    bars = {bar["name"]: bar["x"] for bar in page.figures["outcomes"]["data"]}
    assert bars == {"ok": [4, 5, 5], "unconverged": [1, 0, 0], "crashed": [0, 1, 1]}
    seconds = [4 * 10 + 100, 5 * 10 + 1000, 5 * 10 + 1000]
    (bar,) = page.figures["label-costs"]["data"]
    assert bar["y"] == ["seed", "gen000", "gen001"]
    assert bar["x"] == pytest.approx([s / 60 for s in seconds], rel=1e-3)
    told = page.column("label-times", "Core time, s")
    assert told == ["140", "1,050", "1,050", "2,240"]
    assert page.column("label-times", "Without") == ["1", "1", "1", "3"]


def test_core_time_by_stage_is_that_of_the_ledger(page, made):
    ledger = made[1][0].parents[2] / "stages.jsonl"  # its last line is torn
    entries = [json.loads(line) for line in ledger.read_text().splitlines()[:-1]]
    (bar,) = page.figures["stages"]["data"]
    for stage, minutes in zip(bar["y"], bar["x"], strict=True):
        spent = sum(e["seconds"] * e["cores"] for e in entries if e["stage"] == stage)
        assert minutes == pytest.approx(spent / 60)


def test_the_teachers_frames_lie_in_the_bins_of_their_energies_and_forces(page, made):
    frames = read_frames(made[1][0].parents[1] / "teacher/frames.parquet")
    energies = np.array([frame.info["energy"] / 3 for frame in frames])
    forces = np.array([np.sqrt((f.arrays["forces"] ** 2).sum(1).max()) for f in frames])
    for name, values in (("energy", energies - energies.min()), ("force", forces)):
        figure = page.figures[f"teacher-{name}-water"]["data"]
        edges = figure[0]["x"]
        assert edges[-1] == pytest.approx(values.max(), rel=1e-3)
        assert edges[0] == pytest.approx(values[values > 0].min(), rel=1e-3)
        md = values[[frame.info["origin"] == "md" for frame in frames]]
        half = figure[0]["counts"][len(figure[0]["counts"]) // 2][0]
        counted = sum(n for start, n in figure[0]["counts"] if start >= half)
        assert abs(counted - (md >= half).sum()) <= 1  # edges are rounded


def test_drift_before_fine_tuning_is_told_apart_from_drift_after(made):
    path = made[1][0].parent / "drift.json"
    told = files.read_json(path)
    told["before"] = json.loads(json.dumps(told["after"]))
    for name, of in told["before"].items():
        of["shift"] = 10 + len(name)
    files.write_json(path, told)
    before, after, _ = show(*made).figures["drift-shift"]["data"]
    assert before["name"] == "generation 0, before"
    assert min(before["y"]) > 10 > max(after["y"])
    expected = [told["after"][name]["shift"] for name in after["x"]]
    assert after["y"] == pytest.approx(expected, rel=1e-3)


def test_the_model_is_named_by_its_own_hash(page):
    told = page.texts["provenance"]
    # By sha256sum.
    last = "93dc44381b5260808085f4dd99e5d439f52b86f2938527faf30bd72eb21afbc1"
    first = "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"
    assert f"gen001/model.model, SHA-256 {last}" in told
    assert f"generation 0: {first}" in told
