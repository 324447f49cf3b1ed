"""The page of an exam: one HTML file with its tables, figures, costs and failures.

    from exams.page import page

    Path("aspirin.html").write_text(page(exam, summarised(exam, cells, of=len(grid(exam)))))

Not for: the page of a campaign (see `halcyon.report.page`).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from exams.definitions import Exam
from exams.tables import campaign_rows, run_rows, table_rows
from halcyon.report.page.axes import NEUTRAL, Figure, faint, gradient, titled
from halcyon.report.page.render import page_environment

REMARKS = {
    "water": "Diffusion in a periodic box is too slow by 2.837 kT/(6πηL), with the viscosity η and "
    "the edge L (I.-C. Yeh and G. Hummer, J. Phys. Chem. B 108, 15873, 2004), and no water's: it "
    "is the model's alone. The reference's dynamics is in the small box, with the same starts.",
    "hydrogen": "Both free energies are from well-tempered metadynamics with the same hills, "
    "starts and random numbers. Replicas are independent, and the interval is over them; replicas "
    "that failed are left out of the free energy, and counted below.",
}

PAGE = """{% from "macros.jinja" import table, figures with context %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Exam: {{ found.exam }} · Halcyon</title>
<style>
{% include "style.css" %}
</style>
</head>
<body>
<h1>Exam: {{ found.exam }}</h1>
<p>{{ found.asks }}</p>
<p class="soft">{{ found.cells.done }} of {{ found.cells["all"] }} cells are done
{%- if found.cells.done < found.cells["all"] %}: what is not done is not here, and intervals are
those of the replicas that are{% endif %}. Made {{ made }} by <code>{{ command }}</code>. Intervals
are 95 %, from resampling replicas (seed {{ found.seed }}).</p>
{% if remark %}<p>{{ remark }}</p>{% endif %}
<h2>Campaigns</h2>
{% if campaigns | length > 1 %}{{ table(campaigns, "campaigns") }}{% else %}
<p>No campaign is at its end.</p>{% endif %}
<h2>Results</h2>
{% if results | length > 1 %}{{ table(results, "results", left=2) }}{% else %}
<p>Nothing is measured yet.</p>{% endif %}
{{ figures(shown) }}
<h2>Dynamics: time, failures, costs</h2>
{% if runs | length > 1 %}{{ table(runs, "runs") }}{% endif %}
{% if failures %}{{ table(failures, "failures") }}{% else %}
<p>No replica failed{% if runs | length == 1 %}, and none ran{% endif %}.</p>{% endif %}
<script>{{ plotly | safe }}</script>
<script id="figures" type="application/json">{{ drawn | tojson }}</script>
<script>
for (const [id, f] of Object.entries(JSON.parse(document.getElementById("figures").textContent)))
  Plotly.newPlot(id, f.data, f.layout, {responsive: true, displayModeBar: false});
for (const numbers of document.querySelectorAll("details.data")) numbers.remove();
</script>
</body>
</html>
"""


def page(exam: Exam, found: Mapping[str, Any]) -> str:
    """The page as HTML that needs no other file."""
    from plotly.offline import get_plotlyjs

    shown = [figure(number, curve) for number, curve in enumerate(found["curves"])]
    failures = [["dynamics of", "replica", "after ps", "why"]] + [
        [f"{run['arm']}: {run['structure']}", str(f["replica"]), f"{f['ps']:.4g}", f["reason"]]
        for run in found["dynamics"]
        for f in run["failures"]
    ]
    return (
        page_environment()
        .from_string(PAGE)
        .render(
            found=found,
            made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            command=f"python benchmarks/exam.py {exam.name} --summary --page {exam.name}.html",
            remark=REMARKS.get(exam.name, ""),
            campaigns=campaign_rows(found),
            results=table_rows(found),
            runs=run_rows(found),
            failures=failures if len(failures) > 1 else [],
            shown=shown,
            drawn={each.id: each.plotly() for each in shown},
            plotly=get_plotlyjs(),
        )
    )


def figure(number: int, curve: Mapping[str, Any]) -> Figure:
    """A curve of each arm, with its interval as a band."""
    data, key = [], {}
    for place, (arm, points) in enumerate(curve["arms"].items()):
        models = [name for name in curve["arms"] if name != "reference"]
        colour = NEUTRAL if arm == "reference" else gradient(models.index(arm), len(models))
        key[f"{arm} ({points['replicas']} replicas)"] = colour
        if points["low"] is not None:
            line = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "x": curve["x"]}
            data.append(line | {"y": points["low"]})
            band = {"y": points["high"], "fill": "tonexty", "fillcolor": faint(colour, 0.2)}
            data.append(line | band)
        drawn = {"color": colour, "width": 2, "dash": "solid" if place else "dot"}
        data.append(
            {"mode": "lines", "name": arm, "x": curve["x"], "y": points["y"], "line": drawn}
        )
    return Figure(
        id=f"curve-{number}",
        title=curve["title"][:1].upper() + curve["title"][1:],
        caption="Mean of the replicas; the band is its 95 % interval.",
        alt=f"{curve['y_title']} over {curve['x_title']} of {', '.join(curve['arms'])}.",
        data=data,
        x=titled(curve["x_title"]),
        y=titled(curve["y_title"]),
        key=key,
    )
