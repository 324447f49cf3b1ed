"""The page a person looks at: one self-contained HTML file per system.

    files.write_text("report.html", render(collect(campaign, "ethanol", verdicts)))

It loads nothing, and a content security policy in it forbids to.

Not for: finding the numbers (`report`).
"""

from halcyon.report.page.render import TEMPLATES, render

__all__ = ["TEMPLATES", "render"]
