"""The spread between draws of the data: what it consists of, and its part in a verdict."""

import math

import pytest
from test_tables import PAPER, Place, record

from pdoe.data.draws import Draw, read_draw
from pdoe.tables import runs, table
from pdoe.tables.draws import add_draw_spread, collect_draws


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def drawn(draw, error, seed=0, words="", replacement=False, **fields):
    """A run on a draw of the data."""
    own = [f"data.draw={draw}"] * (draw > 0) + ["data.replacement=true"] * replacement
    provenance = Draw(draw, replacement).provenance
    names = ",".join([*own, *filter(None, [words])])
    return record(
        error, seed, provenance, overrides=names, run_id=f"{names}{seed}", config_hash=names,
        **{"data": {"name": "mnist_rot", "provenance": provenance, "sha256": names}}, **fields,
    )  # fmt: skip


def lines_of(*records):
    return table.table_lines(PAPER, map(runs.from_record, records), "full")


def test_the_draw_is_read_from_the_provenance():
    for draw in (Draw(), Draw(3), Draw(0, True), Draw(7, True)):
        assert read_draw(draw.provenance) == draw
    assert read_draw("original") is read_draw("regenerated, 2000 held out") is None


def test_the_variance_between_draws_is_what_seeds_and_test_images_leave():
    # Means 2.0, 2.5, 3.0 of the draws: variance 0.25. Seeds of draw 0: 1.9, 2.1: variance 0.02,
    # halved for its mean of two, whole for the other two.
    spread = collect_draws(lines_of(drawn(0, 1.9), drawn(0, 2.1, 1), drawn(1, 2.5), drawn(2, 3.0)))
    (one,) = spread.sets
    assert (one.row, one.settings, one.replacement) == ("mnistrot_pdo_p8", "", False)
    assert (one.mean, one.std) == (pytest.approx(2.5), pytest.approx(0.5))
    sampling = (2.0 * 98 + 2.5 * 97.5 + 3.0 * 97) / 3 / 50_000
    seeds = 0.02 * (0.5 + 1 + 1) / 3
    assert (one.seeds, one.sampling) == (pytest.approx(seeds), pytest.approx(sampling))
    assert one.between == pytest.approx(0.25 - seeds - sampling)
    assert spread.variance_of("mnistrot_pdo_p8") == one.between
    assert spread.variance_of("mnistrot_p4") == one.between  # a row without draws of its own


def test_few_draws_and_small_spreads_add_nothing():
    few = collect_draws(lines_of(drawn(0, 2.0), drawn(1, 3.0)))
    assert few.sets[0].between is None and few.variance_of("mnistrot_pdo_p8") is None
    alike = collect_draws(lines_of(*(drawn(d, 2.0) for d in range(3))))
    assert alike.sets[0].between == 0
    assert not collect_draws(lines_of(drawn(0, 2.0), drawn(0, 2.1, 1))).sets


def test_sets_of_other_settings_and_with_replacement_stay_apart_and_are_pooled():
    first = [drawn(d, 2.0 + d / 2, words="recipe=a") for d in range(3)]  # variance 0.25
    second = [drawn(d, 2.0 + d, words="recipe=a", replacement=True) for d in range(1, 5)]  # 5/3
    spread = collect_draws(lines_of(*first, *second))
    a, b = spread.sets
    assert (a.settings, a.replacement, b.settings, b.replacement) == (
        "recipe=a", False, "recipe=a", True)  # fmt: skip
    pooled = (2 * a.between + 3 * b.between) / 5
    assert spread.variance_of("mnistrot_pdo_p8") == pytest.approx(pooled)


def test_the_spread_widens_the_tolerance_of_regenerated_data_alone():
    draws = [drawn(d, 2.0 + d / 2, words="recipe=a") for d in range(3)]
    own = [record(2.3, 0, "original", run_id="o"), record(2.3, 0, "regenerated", run_id="r")]
    plain = {line.provenance: line for line in lines_of(*own) if line.ours}
    wide = {line.provenance: line for line in add_draw_spread(lines_of(*own, *draws))
            if line.ours and not line.overrides}  # fmt: skip
    assert wide["original"].tolerance == plain["original"].tolerance
    s = wide["regenerated"].draw_std
    expected = math.hypot(plain["regenerated"].tolerance, 1.959964 * math.sqrt(2) * s)
    assert s > 0.4 and wide["regenerated"].tolerance == pytest.approx(expected, rel=1e-6)
    assert plain["regenerated"].judgement[0] == "worse"
    assert wide["regenerated"].judgement[0] == "reproduced"


def test_the_pages_show_the_spread_and_other_settings_of_a_draw_only_there(place):
    draws = [drawn(d, 2.0 + d / 2, words="recipe=a") for d in range(3)]
    place.put(record(2.3, 0, run_id="r"), *draws).publish()
    page = place.page("verdicts.md")
    assert "## Draws of the data" in page and "| 2.500 ± 0.500 |" in page
    assert "| without     | 0, 1, 2 |" in page and "`recipe=a`" in page
    assert "standard deviation of 0.4" in place.page()
    assert "data.draw" not in place.page("overrides.md") and "recipe=a" in place.page(
        "overrides.md"
    )
