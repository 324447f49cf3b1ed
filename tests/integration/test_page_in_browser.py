"""The page in a browser: no error, no request, plots answer, the molecule turns, print fits."""

import browser
import pytest
from browser import Browser

from halcyon import report
from halcyon.report.page import render
from toy_campaign import write_audits, write_diagnoses

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not browser.PROGRAM, reason="Chromium is not installed"),
]


@pytest.fixture
def page(toy, rattled, tmp_path):
    campaign, verdicts = toy()
    write_diagnoses(verdicts, rattled)
    write_audits(verdicts, rattled)
    path = tmp_path / "report.html"
    path.write_text(render(report.collect(campaign, "toy", verdicts)))
    return path


def middle(tab, selector):
    """Where on the screen the middle of an element is, brought into sight."""
    found = tab.evaluate(
        f"(() => {{ const e = document.querySelector({selector!r});"
        " e.scrollIntoView({ block: 'center' }); const r = e.getBoundingClientRect();"
        " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    return {"x": found[0], "y": found[1]}


def test_the_page_lives(page):
    with Browser() as tab:
        tab.screen(1280, 900)
        tab.open(page)
        tab.scroll_through()

        place = middle(tab, "#parity-force .nsewdrag")
        tab.move(**place)
        tab.until("document.querySelector('#parity-force .hoverlayer .hovertext') !== null")

        place = middle(tab, "#view")
        tab.until("document.querySelector('#view canvas') !== null")
        seen = tab.evaluate("document.getElementById('view').querySelector('canvas').toDataURL()")
        tab.move(**place, kind="mousePressed", button="left", buttons=1, clickCount=1)
        tab.move(place["x"] + 80, place["y"] + 20, button="left", buttons=1)
        tab.move(place["x"] + 80, place["y"] + 20, kind="mouseReleased", button="left")
        tab.until(f"document.querySelector('#view canvas').toDataURL() !== {seen!r}")
        turned = tab.evaluate("document.querySelector('#view canvas').toDataURL()")
        tab.evaluate("document.getElementById('view').focus()")
        tab.press("ArrowLeft")
        tab.until(f"document.querySelector('#view canvas').toDataURL() !== {turned!r}")

        before = tab.evaluate("document.getElementById('seen').textContent")
        tab.evaluate("document.querySelector('[name=frame]').focus()")
        tab.press("ArrowDown")
        tab.until(f"document.getElementById('seen').textContent !== {before!r}")
        assert "Selected for H2: excursion" in tab.evaluate(
            "document.getElementById('seen').textContent"
        )

        tab.evaluate("document.querySelector('[data-of=\"cli-label\"]').open = true")
        tab.until("document.querySelectorAll('[data-of=\"cli-label\"] tbody tr').length > 100")
        assert tab.errors == []
        assert tab.requests == []


def shown(tab, figure):
    """Generations whose curves are to be seen in a figure."""
    return tab.evaluate(
        f"[...new Set(document.getElementById({figure!r}).data.filter((t) => t.visible !== false)"
        ".map((t) => t.meta).filter((m) => m !== undefined))]"
    )


def test_the_legend_hides_generations_and_the_parity_shows_one(page):
    with Browser() as tab:
        tab.screen(1280, 900)
        tab.open(page)
        tab.scroll_through()
        assert shown(tab, "cli-label") == [0, 1]
        assert shown(tab, "parity-force") == [1]
        tab.evaluate("document.querySelector('[data-generation=\"0\"]').click()")
        assert shown(tab, "cli-label") == shown(tab, "survival") == [1]
        assert shown(tab, "parity-force") == [1]
        tab.evaluate("document.querySelector('[data-only=\"0\"]').click()")
        assert shown(tab, "parity-force") == [0]
        assert tab.evaluate("document.getElementById('cli-label').layout.yaxis.type") != "log"
        tab.evaluate("document.getElementById('logarithmic').click()")
        tab.until("document.getElementById('cli-label').layout.yaxis.type === 'log'")
        # The table under a figure has the figure's numbers.
        tab.evaluate("document.querySelector('[data-of=\"events\"]').open = true")
        tab.until("document.querySelectorAll('[data-of=\"events\"] tbody tr').length === 2")
        rows = tab.evaluate(
            "[...document.querySelectorAll('[data-of=\"events\"] tbody tr')]"
            ".map((r) => [...r.cells].map((c) => c.textContent))"
        )
        assert rows == [["generation 0", "0", "500"], ["generation 1", "1", "0"]]
        assert tab.errors == []


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_paper(page, dark):
    with Browser() as tab:
        tab.screen(390, 844, phone=True, dark=dark)
        tab.open(page)
        tab.scroll_through()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(20, 24, 31)") == dark
        assert tab.pdf().startswith(b"%PDF")
        assert tab.errors == []


def test_a_request_would_be_noticed(tmp_path):
    """The test of the tests: an address that is asked for is written down."""
    path = tmp_path / "bad.html"
    path.write_text('<!doctype html><img src="http://localhost:9/x.png"><script>oops()</script>')
    with Browser() as tab:
        tab.open(path)
        tab.until("document.images[0].complete")
        assert tab.requests == ["http://localhost:9/x.png"]
        assert tab.errors
