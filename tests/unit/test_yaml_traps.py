"""Words and structures that YAML reads otherwise than a person: refused, with line and way out."""

import pytest

from conftest import ROOT
from halcyon.config import read_yaml
from halcyon.config.yaml_traps import refuse_traps
from halcyon.errors import InputError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nbox_A: 1:30", r"f\.yaml: line 2: box_A: 1:30: YAML reads this as the number 90"),
        ("a: 190:20:30.5", "the number 685230 "),
        ("charge: 010", r"line 1: charge: 010: YAML reads this as the number 8 \(base 8\)"),
        ("structures:\n- name: NO", "structures.0.name: NO: .* false: .* quote"),
        ("structures:\n- pack: {NO: 2}", "line 2: structures.0.pack.NO: NO: .* false: .* quote"),
        ("names: [ON, ok]", "names.0: ON: YAML reads this as true"),
        ("day: 2026-11-28", "reads this as a date"),
        ("limits:\n  a: 1\nseed: 1\nlimits:\n  b: 2", "line 4: limits stands here and in line 1"),
        ("limits:\n  a: 1\n  a: 2", r"line 3: limits\.a stands here and in line 2"),
        ("a: 1\nb: =", "line 2: b: =: .* quote"),
        ("a: !!python/object:os.system x", "line 1: a: x: .* expected a number, text"),
        ("a: !mine {b: 1}", "line 1: a: !mine"),
        ("a: &x {b: *x, c: 1:30}", "line 1: a.c: 1:30"),
        ("[" * 10_000, "nested deeper than 50"),
        ("a: " + "{b: " * 60 + "1" + "}" * 60, "nested deeper than 50"),
        ("a: [1", "not valid YAML"),
    ],
)
def test_a_trap_is_refused(text, message, tmp_path):
    with pytest.raises(InputError, match=message):
        refuse_traps(text, "f.yaml")
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=str(path)):
        read_yaml(path)


def test_all_traps_of_a_file_at_once():
    with pytest.raises(InputError) as refused:
        refuse_traps("a: 1:30\nb: 010\nb: no", "f.yaml")
    assert len(str(refused.value).splitlines()) == 4


@pytest.mark.parametrize(
    "text",
    [
        'box_A: "1:30"',
        "name: 'NO'",
        "a: true\nb: False\nc: 0\nd: 0.5\ne: 1e-4\nf: -10\ng: 0x1F\nh: null\ni: [1, 2]",
        "note: at 1:30 it began",
        "",
    ],
)
def test_what_reads_alike_is_taken(text):
    refuse_traps(text, "f.yaml")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").rglob("*.yaml")), ids=lambda path: path.name
)
def test_shipped_files_have_none(path):
    refuse_traps(path.read_text(), path.name)
