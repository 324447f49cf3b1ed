"""What the page's figures draw."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from halcyon.models import parity
from halcyon.models.forgetting import compared, dimers
from halcyon.models.metrics import Learning, Metrics
from halcyon.report.page.axes import MAX_POINTS, cloud_points, curve_points
from halcyon.report.page.instability import mean_interval
from halcyon.report.page.learning import error_interval
from toy_campaign import TIME_PS, show, write_diagnoses


def test_instability_is_that_of_the_traces(toy):
    campaign, verdicts = toy()
    page = show(campaign, verdicts)
    traces = pd.read_parquet(verdicts[1].parent / "traces.parquet")
    last = traces.groupby("replica").last()
    assert page.column("summary", "Mean Λ")[1] == f"{last['cli_label'].mean():.3g}"
    assert page.column("summary", "Largest atomic Λ")[1] == f"{last['cli_label_max'].max():.3g}"
    late = traces[traces["time"] > TIME_PS / 2]
    assert float(page.column("summary", "λ, late")[1]) == pytest.approx(
        late["rate_label"].mean(), rel=0.01
    )
    curves, crosses = page.figures["cli-label"]["data"][:2]
    assert curves["x"].count(None) == 4
    assert crosses["x"] == [0.05, 0.25]
    assert "bond broken at 0.05 ps" in crosses["text"][0]


def survival_of(generation, page):
    """Low, high, fraction running and stopped replicas of a generation, as drawn."""
    return [t for t in page.figures["survival"]["data"] if t["meta"] == generation]


def test_survival_is_drawn_with_its_band(toy):
    page = show(*toy())
    low, high, running, stopped = survival_of(0, page)
    # By hand: two of four fail, at 0.05 and 0.25 ps. Greenwood's variance of 3/4 is 3/4² / 12; on
    # the log-log scale the standard error is 1.00346, and the band 3/4 to the powers of e^±1.9668.
    assert running["x"] == [0, 0.05, 0.25, TIME_PS]
    assert running["y"] == [1, 0.75, 0.5, 0.5]
    assert low["y"][1] == pytest.approx(0.1279, abs=2e-4)
    assert high["y"][1] == pytest.approx(0.9605, abs=2e-4)
    assert [told[2] for told in running["customdata"]] == [4, 4, 3, 2]
    assert {trace["line"]["shape"] for trace in (low, high, running)} == {"hv"}
    assert (stopped["x"], stopped["y"]) == ([TIME_PS], [0.5])
    assert survival_of(1, page)[2]["y"] == [1, 1]
    told = page.texts["failure-rate"].replace("\n", " ")
    assert told.startswith("0 of 4 replicas of generation 1 failed in 8 ps: with 95 % confidence ")
    assert "confidence fewer than 1 failure per 2.6 ps of one replica." in told
    assert "2 of 8 replicas failed, and at least 5 must" in page.texts["critical"]


def test_replicas_that_replaced_failed_ones_count(toy):
    began = (0.05, 0.25)
    page = show(*toy(["max_generations"], began=lambda _: began))
    assert "2 of 6 replicas failed" in page.texts["verdict"]
    assert (
        "It rests on 4 replicas of up to 2 ps at 500 K and 2 that took the places of failed ones, "
        "with the model of generation 0, 8 ps in all."
    ) in page.texts["coverage"]
    assert page.column("replicas", "Start")[:4] == ["with the run"] * 4
    assert page.column("replicas", "Start")[4:] == [
        f"replaced a failed one at {ps} ps" for ps in began
    ]
    assert page.column("rates", "Replicas") == ["6"]
    assert page.column("rates", "Replacements") == ["2"]
    _, _, running, stopped = survival_of(0, page)
    assert running["y"] == [1, 0.8333, 0.6667, 0.6667, 0.6667, 0.6667]
    assert stopped["x"] == [1.75, 1.95, 2]


def test_other_signals_are_drawn(toy):
    campaign, verdicts = toy(signals=("latent", "bond_stretch"))
    # A signal may have been asked for later on.
    early = pd.read_parquet(verdicts[0].parent / "traces.parquet")
    early = early.drop(columns=[name for name in early if name.endswith(("_latent", "latent_max"))])
    early.to_parquet(verdicts[0].parent / "traces.parquet")
    page = show(campaign, verdicts)
    drawn = page.figures
    assert {t["meta"] for t in drawn["cli-latent"]["data"]} == {1}
    assert {t["meta"] for t in drawn["cli-bond_stretch"]["data"]} == {0, 1}
    for name in ("cli-latent", "cli-bond_stretch"):
        assert name in page.texts
    label, other = (drawn[name]["data"][0]["y"][1:] for name in ("cli-label", "cli-bond_stretch"))
    assert other[-2] == pytest.approx(label[-2] / 2, rel=1e-3)
    assert not [name for name in show(*toy()).figures if "latent" in name]


def test_long_traces_are_thinned_and_keep_their_ends(toy):
    page = show(*toy(["saturated"], failing=lambda _: 0, points_per_ps=6_000))
    drawn = page.figures["cli-guard"]["data"][0]["x"]
    assert len(drawn) < MAX_POINTS * 1.01
    assert drawn[-2] == TIME_PS


def test_the_plateau_is_the_mean_of_those_that_lasted(toy):
    campaign, verdicts = toy()
    plateau = show(campaign, verdicts).figures["cli-label"]["data"][2]
    traces = pd.read_parquet(verdicts[0].parent / "traces.parquet")
    lasted = traces[traces["replica"] >= 2].set_index("time").groupby("replica")["cli_label"]
    assert plateau["x"] == [TIME_PS / 2, TIME_PS]
    expected = [np.mean([curve.loc[time] for _, curve in lasted]) for time in plateau["x"]]
    assert plateau["y"] == pytest.approx(expected, rel=1e-3)


def test_rates_by_temperature_have_their_interval(toy):
    means = show(*toy()).figures["rate-temperature"]["data"][3]
    rates = show(*toy()).figures["rate-temperature"]["data"][2]["y"]
    assert len(rates) == 4
    interval = stats.ttest_1samp(rates, 0).confidence_interval(0.95)
    assert means["y"] == pytest.approx([np.mean(rates)], rel=1e-3)
    assert means["y"][0] + means["error_y"]["array"][0] == pytest.approx(interval.high, rel=1e-3)
    assert np.isnan(mean_interval(np.array([0.1]))[1])


def test_errors_are_drawn_by_whole_frames():
    """A frame's components are alike: 300 of them are 20 frames, not 300 measurements."""
    random = np.random.default_rng(0)
    off = np.repeat(random.exponential(size=20), 15)
    table = {"frame": np.repeat(np.arange(20), 15), "reference": np.zeros(300), "predicted": off}
    low, high = error_interval(table, seed=1)
    frames = stats.bootstrap((off[::15],), np.mean, method="percentile", rng=2, n_resamples=5000)
    assert low == pytest.approx(frames.confidence_interval.low, rel=0.05)
    assert high == pytest.approx(frames.confidence_interval.high, rel=0.05)
    table["frame"] = np.arange(300)
    assert error_interval(table, seed=1)[0] > 1.1 * low
    assert error_interval({"reference": off, "predicted": off}, seed=1) is None


def test_parity_is_that_of_the_tables(toy, rattled):
    campaign, verdicts = toy()
    write_diagnoses(verdicts, rattled)
    page = show(campaign, verdicts)
    first, last, _ = page.figures["parity-force"]["data"]
    assert (first["visible"], last["visible"]) == (False, True)
    table = parity.read(verdicts[1].parent / "parity.parquet")["force"]
    np.testing.assert_allclose(last["x"], table["reference"], rtol=1e-3)
    np.testing.assert_allclose(last["y"], table["predicted"], rtol=1e-3)
    # 0.05 eV/Å off everywhere: the mean, the root mean square and the largest are the same.
    assert page.column("errors", "Force RMSE, meV/Å") == ["100", "50"]
    assert page.column("errors", "Force MAE")[1].endswith("(50–50)")


def test_teacher_and_drift_are_drawn(toy, rattled):
    campaign, verdicts = toy()
    write_diagnoses(verdicts, rattled)
    page = show(campaign, verdicts)
    md, displaced = page.figures["teacher-force-water"]["data"]
    assert sum(n for _, n in md["counts"]) == 30
    assert sum(n for _, n in displaced["counts"]) == 10
    names = [trace["name"] for trace in page.figures["drift-shift"]["data"]]
    assert names == ["generation 0, before", "generation 0, after", "generation 1, after"]


def test_walls_before_and_after_are_drawn(toy):
    campaign, verdicts = toy()
    scans = dimers([1, 8])
    ends = [scan.distances_A for scan in scans]
    before = np.concatenate([20 * np.exp(-3 * r) for r in ends])
    forgotten = compared(scans, before, 2 * before)
    path = verdicts[-1].parent / "metrics.json"
    learning = Learning(
        replay_weight=0.1,
        replayed={"md": 7, "strained": 3},
        replay_labelled_by="start model",
        freeze="all_but_readouts",
        lora_rank=0,
    )
    update = {"forgetting": forgotten, "learning": learning}
    Metrics.read(path).model_copy(update=update).write(path)
    page = show(campaign, verdicts)
    curves = page.figures["walls-dimer"]["data"]
    assert len(curves) == 6
    first, second = curves[:2]
    np.testing.assert_allclose(second["y"], 2 * np.array(first["y"]), rtol=1e-2, atol=1e-3)
    assert "walls-bond" not in page.figures
    # Energies doubled: the difference is the start model's energy itself, from its own zero.
    wall = 20 * (np.exp(-3 * ends[0]) - np.exp(-3 * ends[0][-1]))
    above = wall[wall > 1.0]
    expected = np.sqrt(np.mean(above**2))
    column = "Difference from 1 to 30 eV"
    assert float(page.column("walls-table", column)[0]) == pytest.approx(expected, rel=1e-2)
    assert page.column("walls-all", "Generation") == ["1"]
    assert page.column("walls-all", "Replay") == [
        "10 frames labelled by the start model, weight 0.1"
    ]
    assert page.column("walls-all", "Frozen blocks") == ["all but readouts"]


def test_without_scans_nothing_is_said_of_walls(toy):
    page = show(*toy())
    assert "walls-dimer" not in page.figures


def test_a_thinned_curve_keeps_its_shape():
    x = np.arange(10_000.0)
    y = np.where(x == 4321, 5.0, 0.0)  # one spike, which an even thinning would miss
    kept = curve_points(x, y, 50)
    assert len(kept) <= 50
    assert {0, 4321, 9999} <= set(kept)
    assert list(curve_points(x[:4], np.array([0, np.nan, 1, 2]), 50)) == [0, 2, 3]


def test_a_thinned_cloud_keeps_what_is_furthest_off():
    error = np.zeros(1000)
    error[[5, 500]] = [-3, 2]
    kept = cloud_points(error, 100)
    assert len(kept) == 100
    assert {5, 500} <= set(kept)
    np.testing.assert_array_equal(kept, cloud_points(error, 100))
