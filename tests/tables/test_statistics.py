"""Statistics over seeds, the verdict of a row, and differences of rows.

Expected numbers are worked out by hand in the tests or come from scipy.
"""

import csv
import math
import re

import pytest
from scipy import stats
from test_tables import P8, PAPER, ROOT, record

from pdoe.run.overrides import join_overrides, split_overrides
from pdoe.tables import csv_files, paper, runs, statistics
from pdoe.tables import table as tables


def line_of(*errors, **fields):
    members = [runs.from_record(record(e, seed, **fields)) for seed, e in enumerate(errors)]
    return tables.Line(P8, members[0]["overrides"] or "", members[0]["data.provenance"],
                       tuple(members))  # fmt: skip


# ---- Statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees, t", [(1, 12.706205), (2, 4.302653), (9, 2.262157)])
def test_the_t_quantile_is_that_of_the_printed_tables(degrees, t):
    assert statistics.t_quantile(degrees) == pytest.approx(t, abs=1e-6)
    assert statistics.t_quantile(degrees, 0.0) == 0


def test_welch_is_that_of_scipy():
    first, second = [1.9, 2.1, 2.4, 2.0], [2.5, 2.2, 2.9]
    welch = statistics.Welch.of(statistics.Summary.of(first), statistics.Summary.of(second))
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert welch.t == pytest.approx(expected.statistic, rel=1e-12)
    assert welch.degrees == pytest.approx(expected.df, rel=1e-12)
    assert welch.p == pytest.approx(expected.pvalue, rel=1e-10)


def test_without_a_spread_there_is_no_test():
    one, same, some = ([2.0], [2.0, 2.0], [2.0, 2.5])
    for first, second in ((one, some), (some, one), (same, same)):
        assert (
            statistics.Welch.of(statistics.Summary.of(first), statistics.Summary.of(second)) is None
        )
    assert statistics.Welch.of(statistics.Summary.of(same), statistics.Summary.of(some)) is not None


def test_holm_by_hand():
    """0.01 * 4, then 0.02 * 3, then 0.03 * 2 = 0.06 again, and 0.9 * 1."""
    assert statistics.holm([0.02, 0.9, 0.01, 0.03]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert statistics.holm([0.8, 0.7]) == [1.0, 1.0] and statistics.holm([]) == []


def test_a_summary_is_mean_sample_deviation_and_t_interval():
    summary = statistics.Summary.of([1.0, 2.0, 3.0])
    low, high = stats.t.interval(0.95, 2, loc=2, scale=1 / math.sqrt(3))
    assert (summary.n, summary.mean, summary.std) == (3, 2.0, 1.0)
    assert summary.half_width == pytest.approx((high - low) / 2, rel=1e-12)
    assert str(summary) == "2.000 ± 1.000 (n = 3; 1.000 to 3.000)"


def test_one_seed_has_no_spread():
    summary = statistics.Summary.of([1.5])
    assert summary.std is None and summary.half_width is None
    assert str(summary) == "1.500 (n = 1)"


# ---- The verdict --------------------------------------------------------------------------------
# One seed: h = 1.959964 sqrt((1.87 * 98.13 + m (100 - m)) / 50000). On the upper boundary
# m - 1.87 = h at m = 2.041651, on the lower one 1.87 - m = h at m = 1.705744 (fixed points).


@pytest.mark.parametrize(
    "error, word",
    [
        (1.87, "reproduced"), (2.0414, "reproduced"), (2.0419, "worse"),
        (1.7060, "reproduced"), (1.7055, "better"), (0.0, "better"), (100.0, "worse"),
    ],
)  # fmt: skip
def test_one_seed_is_judged_by_the_sampling_error_of_both_figures(error, word):
    assert line_of(error, provenance="original").verdict == f"{word} (provisional: n = 1)"


# Three seeds m - 0.1, m, m + 0.1: a = 4.302653 * 0.1 / sqrt(3) = 0.248414. The boundaries are the
# fixed points m = 2.173552 and m = 1.573843 of |m - 1.87| = sqrt(a^2 + b(m)^2).


@pytest.mark.parametrize(
    "middle, word",
    [(2.1733, "reproduced"), (2.1738, "worse"), (1.5741, "reproduced"), (1.5736, "better")],
)
def test_the_seed_interval_widens_the_judgement(middle, word):
    errors = [middle - 0.1, middle, middle + 0.1]
    assert line_of(*errors, provenance="original").verdict == word


def test_a_verdict_on_regenerated_data_says_so():
    assert line_of(1.9, 1.8, 1.85).verdict == "reproduced (regenerated data)"
    assert line_of(1.9, 1.8).verdict == "reproduced (regenerated data; provisional: n = 2)"


def test_another_draw_of_the_data_is_compared_with_the_paper_and_named():
    draw = {"provenance": "regenerated, draw 3", "overrides": "data.draw=3"}
    assert line_of(1.9, 1.8, 1.85, **draw).verdict == "reproduced (regenerated data, draw 3)"
    draw = {"provenance": "regenerated with replacement, draw 0",
            "overrides": "data.replacement=true"}  # fmt: skip
    found = line_of(1.9, 1.8, 1.85, **draw).verdict
    assert found == "reproduced (regenerated data with replacement, draw 0)"
    draw["overrides"] += ",group=p4"
    assert line_of(1.87, **draw).verdict == "not comparable (overrides)"


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"provenance": "embedded"}, "embedded data"),
        ({"provenance": "homemade"}, "homemade data"),
        ({"overrides": "group=p4"}, "overrides"),
    ],
)
def test_other_data_and_overrides_are_not_comparable(fields, reason):
    assert line_of(1.87, **fields).verdict == f"not comparable ({reason})"


def test_unfinished_runs_count_for_nothing():
    line = line_of(None, None, status="failed")
    assert line.verdict == "not run (2 failed)" and line.ours is None


def test_the_paper_table_has_the_ten_published_figures():
    published = "5.03 2.28 1.87 1.69 1.54 1.09 0.89 0.716 0.714 0.709".split()
    assert [line.error for line in PAPER] == published


def test_a_line_of_the_paper_that_cannot_be_used_is_named(tmp_path):
    path = tmp_path / "paper.csv"
    header = "row,method,group,error,parameters,test_images\n"
    for bad in ("a,A,p1,5.O,,10\n", "a,A,p1,5,x,10\n", "a,A,p1,5,,0\n", ",A,p1,5,,10\n", "a\n"):
        path.write_text(header + bad)
        with pytest.raises(runs.TableError, match="paper.csv:2"):
            paper.read_paper(path)
    path.write_text(header + "a,A,p1,5,,10\na,A,p1,5,,10\n")
    with pytest.raises(runs.TableError, match="paper.csv:3"):
        paper.read_paper(path)


def test_a_test_on_fewer_images_has_a_larger_sampling_error():
    def sampling(images):
        return line_of(5.0, overrides=f"recipe.test_images={images}").sampling

    assert sampling("500") == pytest.approx(10 * sampling("null"))
    assert sampling("900000") == sampling("null") == line_of(5.0).sampling


def test_the_number_of_test_images_is_read_from_the_manifest():
    """Nothing in the overrides says so: the number stands in the file of the recipe."""
    manifest = {"configuration": {"recipe": {"test_images": 500}}}
    line = line_of(5.0, manifest=manifest)
    assert line.sampling == pytest.approx(10 * line_of(5.0).sampling)


def test_networks_are_held_against_each_other_and_other_settings_are_not():
    def line(overrides):
        return line_of(2.0, 2.1, overrides=overrides)

    def pairs(*overrides):
        return len(tables.list_contrasts([line(one) for one in overrides]))

    assert pairs("group=p4,recipe=f", "recipe=f") == 1
    assert pairs("group=p4,model.stages=[[1,2],[3]],recipe=f", "+model.extra=1,recipe=f") == 1
    assert pairs("recipe=f", "recipe=g") == 0 and pairs("recipe.epochs=3", "") == 0


def test_rows_with_several_seeds_are_compared():
    """Paired by the seeds 1 and 2 alone: 0.3 and 0.4, t(1) = 12.7062, 12.7062 * 0.05 = 0.635."""
    p8 = [record(2.0 + s / 10, s) for s in (0, 1, 2)]
    z2 = [record(2.2 + s / 5, s, experiment="mnistrot_z2") for s in (1, 2, 3)]
    p4 = [record(2.5, 0, experiment="mnistrot_p4")]
    other = {"data": record()["data"] | {"sha256": "5b"}, "overrides": "group=p4"}
    fast = [record(2.5 + s, s, **other) for s in (1, 2)]
    members = map(runs.from_record, [*p8, *z2, *p4, *fast])
    (pair,) = tables.list_contrasts(tables.table_lines(PAPER, members, "full"))
    assert (pair.first.paper.row, pair.second.paper.row) == ("mnistrot_z2", "mnistrot_pdo_p8")
    assert (pair.paired.n, pair.paired.mean) == (2, pytest.approx(0.35))
    assert pair.paired.half_width == pytest.approx(0.6353, abs=1e-4)
    expected = stats.ttest_ind([2.4, 2.6, 2.8], [2.0, 2.1, 2.2], equal_var=False)
    assert pair.welch.p == pair.p_holm == pytest.approx(expected.pvalue)  # one test alone


def test_the_csv_files_hold_the_figures_with_twelve_digits():
    p8, z2 = line_of(2.0, 2.1), line_of(5.0, 5.0, experiment="mnistrot_z2")
    rows = [list(csv.DictReader(text.splitlines())) for text in (
        csv_files.format_statistics_csv([z2, p8]),
        csv_files.format_differences_csv(tables.list_contrasts([z2, p8])),
    )]  # fmt: skip
    (_, one), (pair,) = rows
    for name, value in {
        "mean": p8.ours.mean, "std": p8.ours.std, "t_half_width": p8.ours.half_width,
        "difference": p8.ours.mean - 1.87, "tolerance": p8.tolerance, "n": 2,
    }.items():  # fmt: skip
        assert float(one[name]) == pytest.approx(value, rel=1e-11), name
    assert one["verdict"] == p8.verdict
    welch = statistics.Welch.of(z2.ours, p8.ours)
    assert pair["p_holm"] == pair["p"] == f"{welch.p:.12g}" and float(pair["difference"]) > 2.9


def test_the_correction_counts_all_tests_of_the_table():
    lines = [line_of(2.0, 2.1, 2.2), line_of(2.3, 2.5, 2.4), line_of(3.0, 3.3, 3.1)]
    found = tables.list_contrasts(lines)
    assert [pair.p_holm for pair in found] == statistics.holm([pair.welch.p for pair in found])
    smallest = min(found, key=lambda pair: pair.welch.p)
    assert len(found) == 3 and smallest.p_holm == 3 * smallest.welch.p


def test_overrides_of_every_committed_run_are_split_and_joined_again():
    """Each part is one setting: what stands in brackets or quotes is part of a value."""
    for path in ROOT.glob("results/**/runs.csv"):
        for text in {run["overrides"] or "" for run in runs.read_csv(path).runs}:
            parts = split_overrides(text)
            assert join_overrides(parts) == text
            assert all(re.match(r"\+?[\w.]+=", part) for part in parts), text
    parts = ["a={b:1,c:[2,3]}", "d='x,y=(z'", "+e.f=1"]
    assert split_overrides(join_overrides(parts)) == parts and split_overrides("") == []
