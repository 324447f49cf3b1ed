"""The benchmarks run; what they measure is not tested here."""

import importlib.util
import json
import sys

import numpy as np
import pytest
from ase import Atoms
from test_calculator import folder  # noqa: F401 - a fixture

from conftest import ROOT
from halcyon.labels.stress import GPA


@pytest.fixture
def benchmark(monkeypatch):
    """Load a benchmark by its name, as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look themselves up
        spec.loader.exec_module(module)
        return module

    return load


def test_exploration_speed_explains_itself(benchmark, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark("exploration_speed").main(["--help"])
    assert ended.value.code == 0
    assert "--quick" in capsys.readouterr().out


def test_exploration_speed_gives_its_numbers(benchmark, tmp_path, capsys):
    written = tmp_path / "speed.json"
    options = "--systems ethanol --batches 1 2 --dtypes float32 --steps 2 --rounds 1 --epochs 1"
    benchmark("exploration_speed").main(
        [*options.split(), "--quick", "--profile", "--json", str(written)]
    )
    found = json.loads(written.read_text())
    for key in ("ratio_vs_ase", "monitor_overhead"):
        for batch in ("1", "2"):
            entry = found[key]["ethanol"]["float32"][batch]
            assert entry["min"] <= entry["median"] <= entry["max"]
    assert 0 < found["monitor_overhead"]["ethanol"]["float32"]["1"]["by_stopwatch"] < 1
    assert [case["steps_per_block"]["bare"] for case in found["cases"]] == [2, 2]
    assert found["profile"][0]["ms_per_step"]["model"] > 0
    assert found["machine"]["threads"] == 1
    assert "Halcyon / ASE" in capsys.readouterr().out


def test_teacher_speed_gives_its_numbers(benchmark, tmp_path, capsys):
    written = tmp_path / "speed.json"
    options = ["--systems", "ethanol", "--rounds", "2", "--md-frames", "6"]
    benchmark("teacher_speed").main([*options, "--json", str(written)])
    found = json.loads(written.read_text())
    assert found["frames_per_minute"]["ethanol"] > 0
    (case,) = found["cases"]
    assert case["low"] <= case["frames_per_minute"] <= case["high"]
    assert case["frames"] > 100
    assert "per minute" in capsys.readouterr().out


def test_training_speed_gives_its_numbers(benchmark, tmp_path, capsys):
    written = tmp_path / "speed.json"
    options = "--models quick large --systems ethanol --rounds 1 --steps 1"
    benchmark("training_speed").main([*options.split(), "--json", str(written)])
    found = json.loads(written.read_text())
    quick, large = found["cases"]
    assert set(quick["step_ms"]) == {"mace", "contraction", "ours"}
    assert quick["low"] <= found["ratio"]["quick ethanol"] <= quick["high"]
    assert large["ratio"] is None  # features of degree 1 are MACE's own to train
    assert set(large["step_ms"]) == {"mace", "contraction"}
    assert "ours" in capsys.readouterr().out


def pretraining_cell(group, seed, ends):
    errors = {"forces_mae_meV_per_A": 40.0, "energy_mae_meV_per_atom": 1.0}
    return {
        "group": group,
        "system": "ethanol",
        "labels": 50,
        "kelvin": 1100,
        "seed": seed,
        "errors": {"300": errors},
        "drift": {"C": {"shift": 0.5}, "H": {"shift": None}},
        "replicas": [
            {"end_ps": end, "failure": None if end == 4.0 else "bond broken"} for end in ends
        ],
    }


def test_pretraining_tells_how_much_longer_replicas_hold(benchmark, tmp_path):
    summary = benchmark("pretraining_summary")
    asked = {"system": "ethanol", "kelvin": 500, "seed": 1}
    cells = [
        *(pretraining_cell("scratch", seed, [1.0, 2.0, 3.0] * 3) for seed in (1, 2)),
        *(pretraining_cell("pretrained", seed, [4.0] * 9) for seed in (1, 2)),
        {**asked, "group": "campaign-scratch", "labels": 200, "decision": "label_budget"},
        {**asked, "group": "campaign-pretrained", "labels": 75, "decision": "saturated"},
    ]
    found = summary.summarised(cells, seed=1)
    point = found["points"]["ethanol-50_1100K"]
    assert (point["scratch"]["failed"], point["pretrained"]["failed"]) == (18, 0)
    ratio = found["survival_ratio"]["ethanol-50_1100K"]["pretrained"]
    assert ratio["value"] == pytest.approx(2.0)
    # No failure of 18 leaves room for some: the interval is not that of a bootstrap of equals.
    assert 1.5 < ratio["low"] < 2.0 < ratio["high"]
    assert "| pretrained | 2 | 0 of 18 |" in "\n".join(summary.lines(found))
    assert found["labels_to_saturation"]["pretrained"][0]["labels"] == 75
    benchmark("pretraining_figures").draw(cells, found, tmp_path)
    assert (tmp_path / "pretraining.png").stat().st_size > 10_000


def test_pretraining_draws_models_not_replicas_alone(benchmark):
    ratio = benchmark("pretraining_summary").ratio
    steady = [pretraining_cell("scratch", seed, [2.0] * 8) for seed in (1, 2, 3)]
    alike = [pretraining_cell("pretrained", seed, [1.0, 3.0] * 4) for seed in (1, 2, 3)]
    unlike = [pretraining_cell("pretrained", seed, [end] * 8) for seed, end in enumerate((1, 2, 3))]
    widths = [
        found["high"] - found["low"]
        for found in (ratio(group, steady, seed=1) for group in (alike, unlike))
    ]
    assert widths[1] > 1.3 * widths[0]


def test_only_adds_up_and_names_cells_that_exist(benchmark, capsys, tmp_path):
    main = benchmark("pretraining").main
    main(["--list", "--cells", str(tmp_path), "--only", "zbl", "--only", "shuffled"])
    listed = capsys.readouterr().out.split()[::2]
    assert {name.split("_")[0] for name in listed} == {"zbl", "shuffled"}
    with pytest.raises(SystemExit, match="--only zlb: no cell begins so"):
        main(["--list", "--cells", str(tmp_path), "--only", "zbl", "zlb"])


def test_pretraining_knows_its_grid(benchmark, capsys, tmp_path):
    module = benchmark("pretraining")
    cells = module.grid()
    assert len({cell.name for cell in cells}) == len(cells) == 118
    module.main(["--list", "--cells", str(tmp_path), "--only", "zbl"])
    assert capsys.readouterr().out.split() == [
        word for seed in range(1, 6) for word in (f"zbl_ethanol-50_1100K_{seed}", "missing")
    ]
    for plan in ("first", "second"):
        (tmp_path / f"{plan}.json").write_text(f'{{"schema": 1, "plan": "{plan}"}}')
    with pytest.raises(SystemExit, match="holds cells that differ in the key `plan`: part them"):
        module.main(["--summary", "--cells", str(tmp_path)])


def atomic_cell(way, seed, forces, curve):
    part = {"atoms": 60, "axes": 3, "shift": 1.0, "kurtosis_known": 1.0, "kurtosis_new": 1.2}
    return {
        "group": way,
        "system": "ethanol",
        "seed": seed,
        "errors": {kelvin: {"forces_mae_meV_per_A": forces} for kelvin in ("500", "1000")},
        "drift_test": {kelvin: {"C": part} for kelvin in ("500", "1000")},
        "replicas": [{"end_ps": 1.0, "failure": None}, {"end_ps": 0.5, "failure": "bond broken"}],
        "curve": {"steps_per_epoch": 10, "forces_mae_meV_per_A": curve},
        "cpu_s": {"tblite": 0.5, "pretraining": 9.0, "fine_tuning": 8.0},
        "pretraining": None,
    }


def test_atomic_pretraining_compares_ways_seed_by_seed(benchmark):
    summary = benchmark("atomic_pretraining_summary")
    plain = [atomic_cell("forcefield", s, f, [60, 50, 40]) for s, f in ((1, 50), (2, 60), (3, 70))]
    # Better by 9, 10 and 11: the seeds differ by more than the ways, and are taken in pairs.
    more = [atomic_cell("charges", s, f, [60, 43, 41]) for s, f in ((1, 41), (2, 50), (3, 59))]
    found = summary.summarised([*plain, *more])["ethanol"]
    assert found["goal_meV_per_A"] == pytest.approx(44.0)
    charges = found["ways"]["charges"]
    # Student's t of 2 degrees of freedom at 97.5 % is 4.3027; the standard error 1/√3.
    half = 4.3027 / 3**0.5
    assert charges["differences"]["forces_500K"] == pytest.approx(
        [-10, -10 - half, -10 + half], abs=1e-3
    )
    assert charges["steps_to_goal"] == [20, 20, 20]
    assert found["ways"]["forcefield"]["steps_to_goal"] == [30, 30, 30]
    assert found["ways"]["forcefield"]["differences"] == {}
    assert charges["failed"] == [3, 6]
    text = "\n".join(summary.lines({"ethanol": found}))
    assert "| charges | 3 | 50.0 (27.6 to 72.4) | -10.0 (-12.5 to -7.5) |" in text


def test_atomic_pretraining_knows_its_grid_and_its_control(benchmark, capsys, tmp_path):
    module = benchmark("atomic_pretraining")
    cells = module.grid()
    assert len({cell.name for cell in cells}) == len(cells) == 2 * 3 * 6
    module.main(["--list", "--cells", str(tmp_path), "--only", "all_aspirin"])
    assert capsys.readouterr().out.split() == [
        word for seed in (1, 2, 3) for word in (f"all_aspirin-50_1500K_{seed}", "missing")
    ]
    frame = Atoms("CH4", positions=np.eye(5, 3))
    frame.arrays |= {name: np.arange(5.0) for name in module.COLUMNS}
    dealt = module.shuffled([frame] * 4)
    orders = [tuple(other.arrays["atomic_charges"]) for other in dealt]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len(set(orders)) > 1, "dealt anew in each frame: nothing can be learned from it"
    assert frame.arrays["atomic_charges"].tolist() == [0, 1, 2, 3, 4]


def test_label_store_gives_its_numbers(benchmark, tmp_path, capsys):
    written = tmp_path / "store.json"
    options = ["--labels", "1500", "--per-shard", "20", "--json", str(written)]
    benchmark("label_store").main(options)
    found = json.loads(written.read_text())
    assert (found["labels"], found["shards"], found["stream"]["labels"]) == (1500, 75, 1500)
    assert found["look_up"]["memory_MiB"] >= found["idle"]["memory_MiB"] > 10
    assert found["look_up"]["cold_s"] > 0
    assert "1,500 labels of 21 atoms" in capsys.readouterr().out


@pytest.mark.cp2k
def test_labelling_speed_gives_its_numbers(benchmark, tmp_path, capsys):
    written = tmp_path / "speed.json"
    options = ["--system", "methanol", "--frames", "2", "--cutoff", "40", "--box", "7.5"]
    benchmark("labelling_speed").main([*options, "--json", str(written)])
    found = json.loads(written.read_text())
    assert found["frames"] == len(found["reused"]["scf_steps_of_frames"]) == 2
    # The first frame of a shard has nobody to learn from.
    assert found["reused"]["scf_steps_of_frames"][0] == found["naive"]["scf_steps_of_frames"][0]
    assert found["ratio_scf_steps"] > 1
    assert found["ratio_vs_naive"] > 0
    assert found["largest_energy_difference_Ha"] < 1e-6
    assert "naive / reused" in capsys.readouterr().out


def test_label_cost_gives_its_numbers(benchmark, tmp_path, capsys):
    written = tmp_path / "cost.json"
    options = ["--frames", "2", "--only", "xtb", "--json", str(written)]
    benchmark("label_cost").main(options)
    found = json.loads(written.read_text())["references"]
    assert set(found) == {"xtb GFN1-xTB", "xtb GFN2-xTB"}
    assert found["xtb GFN2-xTB"]["ratio_vs_gfn2"] == 1
    # Two Hamiltonians: the same frames, other forces.
    largest = [way["largest_force_eV_per_A"] for way in found.values()]
    assert 1 < min(largest) < max(largest) < 20
    assert "2 frames of ethanol" in capsys.readouterr().out


def test_label_cost_names_what_it_knows(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark("label_cost").main(["--only", "vasp"])
    assert "expected the start of one of: xtb GFN1-xTB" in capsys.readouterr().err


def test_audit_width_draws_audits_of_frames_whose_errors_are_known(benchmark):
    random = np.random.default_rng(3)
    error = 0.05 * np.exp(0.4 * random.normal(size=200))
    known = {"error": error, "replica": np.arange(200) % 8}
    compare = benchmark("audit_width").compare
    row = compare(known | {"foretold": error * np.exp(0.1 * random.normal(size=200))}, 10)
    assert (row["frames"], row["of"]) == (10, 200)
    assert row["true_forces_mae_meV_per_A"] == pytest.approx(1000 * error.mean())
    assert row["index"]["width_meV_per_A"] < 0.6 * row["plain"]["width_meV_per_A"]
    assert min(row[way]["holds"] for way in ("plain", "index")) > 0.85
    # What is the same for all frames says nothing: the plain interval stays.
    row = compare(known | {"foretold": np.append(np.full(199, 0.1), 0.1 + 1e-9)}, 10)
    assert row["index"]["width_meV_per_A"] == pytest.approx(row["plain"]["width_meV_per_A"])


def test_watched_heating_notes_alarm_and_failure_of_the_same_run(
    benchmark,
    folder,  # noqa: F811
    tmp_path,
    capsys,
):
    written = tmp_path / "heating.json"
    options = "--seeds 2 --kelvin 1500 --heating 1000 --time 0.1"
    benchmark("watched_heating").main([str(folder), *options.split(), "--json", str(written)])
    found = json.loads(written.read_text())
    for run in found["runs"]:
        assert run["failed"]["stretch_A"] > 0.5
        assert run["failed"]["ps"] == run["ran_ps"] < 0.1
        assert run["failed"]["kelvin"] == pytest.approx(1500 + 1000 * (run["ran_ps"] - 0.0005))
    assert found["summary"]["rate 0.1"]["failed"] == 2
    assert "before the failure" in capsys.readouterr().out


def test_watched_heating_counts_alarms_before_failures_with_their_exact_interval(benchmark):
    def run(alarm_ps, failed_ps):
        alarm = alarm_ps and {"ps": alarm_ps}
        failed = failed_ps and {"ps": failed_ps}
        return {"failed": failed, "rate 0.1": alarm, "ran_ps": failed_ps or 2.0}

    summary = benchmark("watched_heating").summary
    found = summary([run(0.5, 1.0)] * 8, "rate 0.1")
    # All of n: the lower limit is the n-th root of 0.025.
    assert found["interval"] == pytest.approx([0.025 ** (1 / 8), 1.0])
    assert found["lead_ps"] == [0.5, 0.5, 0.5]
    late = summary([run(1.0, 1.0), run(None, 1.0), run(0.4, 1.0), run(0.3, None)], "rate 0.1")
    assert (late["alarmed_before"], late["failed"], late["alarms_without_failure"]) == (1, 3, 1)


def test_pressure_compares_volumes_as_worked_out_by_hand(benchmark):
    # Pressures are lines in V: the model's has 11/10 of the slope, and its zero at +1 %.
    module = benchmark("pressure")
    volumes = 100 * (1 + np.array(module.VOLUMES_PERCENT) / 100)

    def stresses(zero, modulus_GPa):
        six = np.zeros((5, 3, 6))
        six[..., :3] = (modulus_GPa * (volumes - zero) / 100 * GPA)[:, None, None]
        return six

    result = module.compared(stresses(100, 50), stresses(101, 55), 100.0)
    assert result["volume_error_percent"]["value"] == pytest.approx(1.0, abs=1e-3)
    assert result["bulk_modulus_error_percent"]["value"] == pytest.approx(10.0)
    # At x %, the pressures are 0.55 (x - 1) and 0.5 x GPa; the shears are half of the numbers.
    expected = np.mean([abs(0.05 * x - 0.55) for x in module.VOLUMES_PERCENT]) / 2
    assert result["stress_mae_GPa"]["value"] == pytest.approx(expected)
    assert result["reference_pressure_GPa"][0] == pytest.approx(3.0)


def test_pressure_keeps_molecules_rigid(benchmark):
    module = benchmark("pressure")
    box = module.water(np.random.default_rng(1))
    larger = module.scaled(box, 6.0, 3)
    assert larger.get_volume() == pytest.approx(1.06 * box.get_volume())
    assert larger.get_distance(3, 4) == pytest.approx(box.get_distance(3, 4))
    assert larger.get_distance(0, 3) > box.get_distance(0, 3)
