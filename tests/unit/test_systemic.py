import pytest

from halcyon.labels.systemic import cause, pattern

GOOD = ("ok", "")


def crashes(number, words="no space left on /scratch/{n}/cp2k-{n}.tmp after {n}.5e+03 s"):
    return [("crashed", words.format(n=n)) for n in range(number)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("rank 3 of 8 died", "rank 7 of 8 died"),
        ("no file /a/b c", "no file /tmp/x/y.inp c"),
        ("segfault at 0x7ffc12", "segfault at 0xdeadbeef12"),
        ("not done after 3600 s", "not done after 1.5e+02 s"),
        ("work/0a1b2c3d4e5f/cp2k.out: empty", "work/ffffeeee0000/cp2k.out: empty"),
    ],
)
def test_numbers_and_paths_do_not_make_another_cause(first, second):
    assert pattern(first) == pattern(second)


def test_other_words_are_another_cause():
    assert pattern("no basis set for O") != pattern("no basis set for H")
    assert cause(crashes(3) + [("crashed", w) for w in "abcd"]) is None


def test_crashes_and_timeouts_alike_in_more_than_half():
    assert "4 of 7 calculations failed alike: no space left on /scratch/0" in cause(
        [GOOD] * 3 + crashes(4)
    )
    assert cause([GOOD] * 4 + crashes(4)) is None  # half is not more than half
    assert cause(crashes(3)) is None  # too few to tell
    assert "alike: not done" in cause([("timeout", "not done after 60 s")] * 4 + [GOOD])
    assert cause([("rejected", "wrong spin")] * 9) is None


def test_unconverged_is_systemic_only_where_nothing_is_good():
    unconverged = [("unconverged", "SCF run NOT converged after 50 steps")]
    assert cause(unconverged * 9 + [GOOD]) is None
    assert "9 of 9" in cause(unconverged * 9)


def test_a_good_calculation_of_another_shard_counts():
    stubborn = [("unconverged", "SCF run NOT converged")] * 6
    assert cause(stubborn) is not None
    assert cause(stubborn, good_elsewhere=True) is None
    assert cause(crashes(6), good_elsewhere=True) is not None


def test_it_stops_as_soon_as_the_rest_cannot_help():
    assert cause(crashes(5), expected=10) is None
    assert cause([GOOD, *crashes(6)], expected=10)
    assert cause(crashes(7), expected=1000) is None
    assert cause(crashes(8), expected=1000)  # eight in a row: not a thousand
    assert cause([GOOD, *crashes(8)], expected=1000) is None
    assert cause([("unconverged", "no")] * 6, expected=10) is None
