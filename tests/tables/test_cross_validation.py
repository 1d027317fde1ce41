"""Candidates compared fold by fold: which runs, which base, which difference."""

import csv

import pytest
from test_tables import Place, record


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def run_on(fold, error, words="", seed=0, **fields):
    """A run on one of six folds, with other settings."""
    names = [f"data.fold={fold},data.validation=2000", *filter(None, [words])]
    return record(
        error, seed, f"regenerated, fold {fold}, 2000 held out", overrides=",".join(names),
        run_id=f"{words}{fold}{seed}", config_hash=f"{words}{fold}", **fields,
    )  # fmt: skip


def read(place):
    with open(place.results / "validation" / "cross_validation.csv", newline="") as file:
        return {row["settings"]: row for row in csv.DictReader(file)}


def test_a_candidate_is_compared_with_the_one_it_extends_fold_by_fold(place):
    base = [run_on(fold, 2.0 + fold / 10, "recipe=a") for fold in range(6)]
    wider = [run_on(fold, 1.9 + fold / 10, "model.x=1,recipe=a") for fold in range(6)]
    both = [run_on(f, 1.6 + f / 10 + 0.1 * (f == 0), "model.x=1,model.y=2,recipe=a")
            for f in range(3)]  # fmt: skip
    place.put(*base, *wider, *both).publish("--validation")
    rows = read(place)
    first, second, third = (rows[name] for name in (
        "recipe=a", "model.x=1,recipe=a", "model.x=1,model.y=2,recipe=a"))  # fmt: skip
    assert (float(first["error"]), first["folds"]) == (pytest.approx(2.25), "6")
    assert first["compared_with"] == first["difference"] == ""
    assert second["compared_with"] == first["number"]
    assert float(second["difference"]) == pytest.approx(-0.1)
    assert float(second["standard_error"]) == pytest.approx(0, abs=1e-12)
    # 1.7, 1.7, 1.8 against 1.9, 2.0, 2.1 of the candidate that it extends most: -0.2, -0.3, -0.3
    assert (third["compared_with"], third["common_folds"]) == (second["number"], "3")
    assert float(third["difference"]) == pytest.approx(-0.8 / 3)
    assert float(third["standard_error"]) == pytest.approx(0.1 / 3)
    page = place.page("validation/cross_validation.md")
    assert "| 6 of 6 |" in page and "| 3 of 6 |" in page and "-0.267 ± 0.033" in page
    assert "data.fold" not in place.page("validation/table.md")


def test_only_common_folds_and_seeds_are_compared(place):
    base = [run_on(0, 2.0, "recipe=a"), run_on(0, 3.0, "recipe=a", 1), run_on(1, 2.0, "recipe=a")]
    more = [run_on(0, 1.0, "recipe=a,recipe.b=1", 1), run_on(2, 9.0, "recipe=a,recipe.b=1")]
    unfinished = run_on(1, None, "recipe=a,recipe.b=1", status="failed")
    place.put(*base, *more, unfinished).publish("--validation")
    row = read(place)["recipe=a,recipe.b=1"]
    assert (row["folds"], row["common_folds"], row["standard_error"]) == ("2", "1", "")
    assert float(row["difference"]) == -2.0  # fold 0, seed 1


def test_another_value_of_a_setting_extends_nothing(place):
    place.put(run_on(0, 2.0, "group=p6"), run_on(0, 1.0, "group=p8,recipe=a")).publish(
        "--validation"
    )
    assert read(place)["group=p8,recipe=a"]["compared_with"] == ""
    assert place.put(run_on(0, 3.0)).publish("--validation") == 0  # the row as it is
    rows = read(place)
    assert rows["group=p8,recipe=a"]["compared_with"] == rows[""]["number"]
