"""Draw `house.svg` of docs/architecture.md: the rooms of the library and who imports from whom.

    python docs/figures/draw_house.py

The picture is made from the imports in `src/halcyon` as they stand. Rooms are listed in the order
in which they may import: a dot below the diagonal is allowed, one above it would be wrong.

Not for: enforcing the order (`tests/unit/test_house.py` does that).
"""

import ast
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src/halcyon"
ROOMS = {
    "(top)": "errors, files, frames, JSON lines, wording",
    "config": "what a user may set",
    "verdict": "statistics, and the decision",
    "domain": "what the model knows; judging a step",
    "systems": "start structures",
    "teacher": "cheap potentials and their frames",
    "labels": "from a frame to a trusted label",
    "models": "MACE: load, train, evaluate",
    "exploration": "watched dynamics; frames worth a label",
    "campaign": "files, jobs and money",
    "final": "the product, its certificate, its use",
    "report": "what a person reads",
    "commands": "halcyon plan, status, doctor …",
}
ROW, LEFT, TOP = 30, 390, 104
STYLE = (
    ".n{font:600 14px sans-serif;fill:#212529}.s{font:12px sans-serif;fill:#495057}"
    ".h{font:12px sans-serif;fill:#495057}.c{font:600 10px sans-serif;fill:#fff;text-anchor:middle}"
)


def room_of(parts: list[str]) -> str:
    """Room of a module, from the parts of its dotted name."""
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "(top)"


def arrows() -> Counter[tuple[str, str]]:
    """How many modules of a room import from another room: (importing, imported) → number."""
    counts: Counter[tuple[str, str]] = Counter()
    for path in SOURCE.rglob("*.py"):
        module = ["halcyon", *path.relative_to(SOURCE).with_suffix("").parts]
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("halcyon"):
                parts = (node.module or "").split(".")
                imported |= {room_of([*parts, alias.name]) for alias in node.names}
        here = room_of(module)
        if path.name not in ("__main__.py", "former_paths.py"):  # they hand on to other rooms
            counts.update((here, room) for room in imported - {here})
    return counts


def drawn(counts: Counter[tuple[str, str]]) -> str:
    """The picture as SVG."""
    names = list(ROOMS)
    width, height = LEFT + ROW * len(names) + 50, TOP + ROW * len(names) + 16
    label = "The rooms of the library and which imports from which"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{label}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        '<text x="16" y="24" class="h">A room (row) imports from a room (column).</text>'
        '<text x="16" y="42" class="h">The number says how many of its modules do.</text>',
    ]
    for i, name in enumerate(names):
        y, x = TOP + ROW * i, LEFT + ROW * i
        parts.append(
            f'<rect x="12" y="{y + 2}" width="{LEFT - 20}" height="{ROW - 4}" rx="6" '
            'fill="#e9ecef"/>'
            f'<text x="22" y="{y + 20}" class="n">{escape(name)}</text>'
            f'<text x="122" y="{y + 20}" class="s">{escape(ROOMS[name])}</text>'
            f'<text class="h" transform="translate({x + 20},{TOP - 8}) rotate(-60)">'
            f"{escape(name)}</text>"
            f'<rect x="{x + 2}" y="{y + 2}" width="{ROW - 4}" height="{ROW - 4}" rx="4" '
            'fill="#dee2e6"/>'
        )
        for j, other in enumerate(names):
            if number := counts[name, other]:
                colour = "#2a6f97" if j < i else "#c1121f"
                radius = 7 + min(6.0, number / 4)
                centre = LEFT + ROW * j + ROW / 2, y + ROW / 2
                parts.append(
                    f'<circle cx="{centre[0]}" cy="{centre[1]}" r="{radius}" fill="{colour}"/>'
                    f'<text x="{centre[0]}" y="{centre[1] + 3.5}" class="c">{number}</text>'
                )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write the picture."""
    (HERE / "house.svg").write_text(drawn(arrows()), encoding="utf-8")


if __name__ == "__main__":
    main()
