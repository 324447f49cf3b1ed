"""The certificate on the page: what the long runs showed, as a table and as curves of Λ.

Not for: making or checking a certificate (`halcyon.final.certificate`, `halcyon.final.checks`).
"""

from html import escape

import numpy as np
import pandas as pd

from halcyon.final.certificate import Certificate, Runs
from halcyon.final.evidence import Findings
from halcyon.report import SystemReport, number_text
from halcyon.report.page.axes import (
    MAX_POINTS,
    Figure,
    Trace,
    curve_points,
    gradient,
    rounded,
    titled,
)
from halcyon.verdict.estimates import Interval

NAMES = {"nvt": "with a thermostat (NVT)", "nve": "without a thermostat (NVE)"}


def rows(certificate: Certificate) -> list[list[str]]:
    """What the runs of each ensemble show, in all and by temperature."""
    sure = f"{certificate.criteria.confidence * 100:g} %"
    heading = [
        "Runs",
        "T, K",
        "Failed / all",
        "Simulated time, ps",
        f"Failure rate, {sure} bound, 1/ps",
        f"Excursions per atom, {sure} bound, 1/ps",
        "Λ at the end, ps",
        "gained late, ps",
        "Drift of the energy, meV/atom/ps: median",
        "worst",
    ]
    return [heading] + [
        _row(run, found) for run in certificate.runs for found in _told(run.findings)
    ]


def _told(findings: list[Findings]) -> list[Findings]:
    """Of all replicas only where there are several temperatures."""
    return findings if len(findings) > 2 else findings[1:]


def _row(run: Runs, found: Findings) -> list[str]:
    failed, drift = found.failures, found.drift
    return [
        run.ensemble.upper(),
        "all" if found.temperature_K is None else f"{found.temperature_K:g}",
        f"{failed.failures} / {found.replicas}",
        f"{failed.time_ps:.4g}",
        number_text(failed.bound_per_ps),
        number_text(found.excursions.rate_bound_per_atom_ps),
        _interval(found.plateau.cli_ps),
        _interval(found.plateau.late_gain_ps),
        _interval(drift.median if drift else None),
        number_text(drift.worst if drift else None),
    ]


def _interval(of: Interval | None) -> str:
    return "–" if of is None else f"{of.value:.2g} [{of.low:.2g}, {of.high:.2g}]"


def figures(report: SystemReport) -> list[Figure]:
    """Λ of the label domain along the runs of each ensemble."""
    if report.certificate is None:
        return []
    return [
        _curves(run, traces)
        for run, traces in zip(report.certificate.runs, report.certificate_traces, strict=True)
    ]


def _curves(run: Runs, traces: pd.DataFrame) -> Figure:
    colours = {
        kelvin: gradient(i, len(run.temperatures_K)) for i, kelvin in enumerate(run.temperatures_K)
    }
    most = max(10, MAX_POINTS // (2 * len(run.replicas)))
    by_replica = dict(list(traces.groupby("replica")[["time", "cli_label"]]))
    data: list[Trace] = []
    there = drawn = 0
    for entry in run.replicas:
        if entry.replica not in by_replica:  # failed before its first point
            continue
        time, index = by_replica[entry.replica].to_numpy(dtype=float).T
        kept = curve_points(time, index, most)
        there, drawn = there + len(time), drawn + len(kept)
        told = f"replica {entry.replica} ({entry.structure}, {entry.temperature_K:g} K)"
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": told,
                "x": [0.0, *rounded(time[kept])],
                "y": [0.0, *rounded(index[kept])],
                "line": {"color": colours[entry.temperature_K], "width": 1.3},
                "hovertemplate": f"{escape(told)}<br>%{{x:.4g}} ps: Λ = %{{y:.3g}} ps"
                "<extra></extra>",
            }
        )
        if entry.failure is not None:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": f"{told}: failure",
                    "x": rounded(time[-1:]),
                    "y": rounded(index[-1:]),
                    "text": [escape(f"{told}: {entry.failure} at {entry.time_ps:.4g} ps")],
                    "marker": {"symbol": "x", "size": 8, "color": colours[entry.temperature_K]},
                    "hovertemplate": "%{text}<extra></extra>",
                }
            )
    ends = np.array([mine["cli_label"].iloc[-1] for mine in by_replica.values()] or [np.nan])
    return Figure(
        id=f"cli-certificate-{run.ensemble}",
        title=f"Runs {NAMES[run.ensemble]}",
        caption="Λ of the label domain. Flat: the replica stays within what the model knows.",
        alt=f"Λ in ps against simulated time of {len(run.replicas)} replicas "
        f"{NAMES[run.ensemble]}; mean at the end {number_text(float(ends.mean()))} ps, "
        f"{run.overall.failures.failures} failed.",
        data=data,
        x=titled("simulated time, ps", range=[0, run.time_ps * 1.02]),
        y=titled("Λ, mean over atoms, ps", rangemode="tozero"),
        thinned=(there, drawn),
        key={f"{kelvin:g} K": colour for kelvin, colour in colours.items()},
    )
