"""What reacted, in words: on the page and in the terminal."""

import pytest
from fabricated import replica_end

from halcyon import files
from halcyon.report import collect
from halcyon.report.reaction_words import product_rows, reaction_text
from toy_campaign import show

PRODUCTS = [
    {"formula": "H2O", "graph": "[H][O][H]", "formed": 3, "first_ps": 0.6, "at_end": 2},
    {"formula": "H2O2", "graph": "[H][O][O][H]", "formed": 1, "first_ps": 0.25, "at_end": 0},
]


@pytest.fixture
def reacting(toy):
    """Campaign and verdicts; each of the last generation's replicas has these numbers."""

    def make(*of_replicas):
        campaign, verdicts = toy()
        path = verdicts[-1].with_name("exploration.json")
        exploration = files.read_json(path)
        for entry, (changes, products) in zip(exploration["replicas"], of_replicas, strict=False):
            entry |= {"bonds_changed": changes, "products": products}
        files.write_json(path, exploration)
        return campaign, verdicts

    return make


def test_the_page_has_what_reacted(reacting):
    page = show(*reacting((4, PRODUCTS), (2, PRODUCTS[:1])))
    assert page.texts["reactions"].startswith("6 bonds changed in ")
    assert "formed were H2O (6 times) and H2O2 (once)." in page.texts["reactions"]
    assert page.tables["products"][1:] == [
        ["H2O", "[H][O][H]", "6", "2", "0.6", "4"],
        ["H2O2", "[H][O][O][H]", "1", "1", "0.25", "0"],
    ]


def test_the_page_says_that_nothing_reacted_and_nothing_where_bonds_hold(reacting):
    page = show(*reacting(*[(0, [])] * 4))
    assert page.texts["reactions"].startswith("No bond changed in ")
    assert "products" not in page.tables
    assert "reactions" not in show(*reacting()).texts


def test_the_sentence(reacting):
    campaign, verdicts = reacting()
    last = collect(campaign, "toy", verdicts).last

    def said(*ends):
        last.replicas[:] = ends
        return reaction_text(last)

    assert said(replica_end(0, 2.0)) == ""
    assert said(*(replica_end(n, 2.0, bonds_changed=0) for n in range(8))) == (
        "No bond changed in 16 ps."
    )
    assert said(replica_end(0, 2.0, bonds_changed=1)) == (
        "1 bond changed in 2 ps; no new molecule lasted."
    )
    many = [PRODUCTS[0] | {"formula": f"H{n}", "graph": f"[H{n}]"} for n in range(2, 10)]
    text = said(replica_end(0, 2.0, bonds_changed=9, products=many))
    assert text.endswith("H6 (3 times), H7 (3 times) and molecules of 2 other formulas.")
    assert len(product_rows(last)) == 9
