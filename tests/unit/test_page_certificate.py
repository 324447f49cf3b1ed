"""The certificate on the page and in the sentences: what it says, and what to do about it."""

import shutil

import pandas as pd
import pytest
from test_certificate import made

from halcyon import report
from halcyon.final.certificate import Certificate, Conclusion
from halcyon.report.page import render
from toy_campaign import show


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A certificate from real runs of a dimer."""
    return made(tmp_path_factory.mktemp("certified"))


@pytest.fixture
def certified(toy, real):
    """A saturated campaign whose last model has that certificate; by another conclusion, too."""

    def make(conclusion=Conclusion.STABLE, **options):
        campaign, verdicts = toy(("continue", "saturated"), **options)
        system = verdicts[0].parents[1]
        shutil.copytree(real.parent, system / "certificate")
        shutil.copy(real.parents[1] / "gen001/model.model", verdicts[-1].with_name("model.model"))
        path = system / "certificate/certificate.json"
        told = Certificate.read(path)
        said = told.sentence.replace("Stable", conclusion.capitalize())
        told.model_copy(update={"conclusion": conclusion, "sentence": said}).sealed().write(path)
        return campaign, verdicts

    return make


def collected(made_up):
    campaign, verdicts = made_up
    return report.collect(campaign, "toy", verdicts)


def test_it_stands_beside_the_verdict_with_its_numbers(certified, real):
    page = show(*certified())
    told = Certificate.read(real)
    assert page.texts["certificate"].strip() == f"Certificate: {told.sentence}"
    # Both temperatures have 2 replicas of 0.4 ps (NVT) and 0.6 ps (NVE), none fails: the bound is
    # -ln(0.05) over the time of all.
    rows = page.tables["certificate-table"]
    assert [row[1] for row in rows[1:]] == ["all", "300", "600", "all", "300", "600"]
    assert rows[1][2:5] == ["0 / 4", "1.6", "1.87"]
    assert rows[5][2:5] == ["0 / 2", "1.2", "2.5"]
    for ensemble, replicas in (("nvt", 4), ("nve", 4)):
        data = page.figures[f"cli-certificate-{ensemble}"]["data"]
        assert len(data) == replicas
        traces = pd.read_parquet(real.with_name(f"{ensemble}.parquet"))
        ends = traces.groupby("replica")[["time", "cli_label"]].last().to_numpy()
        for curve, (time, index) in zip(data, ends, strict=True):
            assert curve["x"][-1] == pytest.approx(time, rel=1e-3)
            assert curve["y"][-1] == pytest.approx(index, rel=1e-3, abs=1e-12)


def test_a_certificate_of_another_model_is_none(certified):
    campaign, verdicts = certified()
    verdicts[-1].with_name("model.model").write_bytes(b"trained again")
    found = collected((campaign, verdicts))
    assert found.certificate is None
    assert "no certificate yet" in report.certificate_sentence(found)
    assert "no certificate yet" in show(campaign, verdicts).texts["certified"]


def test_a_campaign_without_one_says_why(toy):
    found = collected(toy(("continue", "max_generations")))
    said = report.certificate_sentence(found)
    assert said == (
        "There is no certificate: certificate.when is 'saturated', and this campaign's decision is "
        "'max_generations'."
    )


@pytest.mark.parametrize(
    ("conclusion", "words"),
    [
        (Conclusion.STABLE, "final for runs of up to 0.4 ps at 300, 600 K"),
        (Conclusion.NOT_ENOUGH_DATA, "--forcerun certify"),
        # The campaign explored 2 ps at 300 and 500 K; the certificate has 300 and 600 K. In NVT
        # nothing left the domain: more time would not help.
        (Conclusion.NOT_CALM, "set exploration.temperatures_K to [300.0, 500.0, 600.0], and"),
        (Conclusion.NOT_STABLE, "try a shorter step"),
    ],
)
def test_what_to_do_next_follows_from_it(certified, conclusion, words):
    made_up = certified(conclusion)
    page = show(*made_up)
    assert words in page.texts["next"]
    calm = 'class="verdict calm"' in render(collected(made_up))
    assert calm == (conclusion == Conclusion.STABLE)


def test_what_failed_hot_without_a_thermostat_is_explored_hot(certified):
    campaign, verdicts = certified(Conclusion.NOT_STABLE)
    folder = verdicts[0].parents[1] / "certificate"
    told = Certificate.read(folder / "certificate.json").content()
    nve = told["runs"][1]
    nve["replicas"][1]["failure"] = "bond broken"
    nve["findings"][0]["failures"]["failures"] = 1
    traces = pd.read_parquet(folder / "nve.parquet")
    traces.loc[traces["replica"] == 1, "temperature"] = 910.0
    traces.to_parquet(folder / "nve.parquet")
    Certificate.model_validate(told).sealed().write(folder / "certificate.json")
    said = report.next_step(collected((campaign, verdicts)))
    assert "set exploration.temperatures_K to [300.0, 500.0, 600.0, 950.0], and run" in said


def test_a_replica_that_failed_before_its_first_point_stops_no_page(certified):
    campaign, verdicts = certified(Conclusion.NOT_STABLE)
    folder = verdicts[0].parents[1] / "certificate"
    told = Certificate.read(folder / "certificate.json").content()
    for run in told["runs"]:
        run["replicas"][1]["failure"] = "not finite"
        run["findings"][0]["failures"]["failures"] = 1
        path = folder / f"{run['ensemble']}.parquet"
        traces = pd.read_parquet(path)
        traces[traces["replica"] != 1].to_parquet(path)
    Certificate.model_validate(told).sealed().write(folder / "certificate.json")
    page = show(campaign, verdicts)
    assert len(page.figures["cli-certificate-nvt"]["data"]) == 3
    assert "it goes on with another generation" in page.texts["next"]
