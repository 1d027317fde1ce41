"""A user's runs beside the committed ones: what is shown, and that results stay as they are."""

import json

import pytest
from test_tables import ROOT, Place, compare, record, snapshot, with_details

from pdoe.files import write_whole


class OwnPlace(Place):
    """As a user has it: the committed results are read, ``own`` is written."""

    def compare(self, *more, scale="full"):
        self.own = self.results.parent / "own"
        results = ("--results", str(self.results)) if scale == "full" else ()
        arguments = ["--runs", str(self.outputs), "--write", str(self.own), "--scale", scale]
        return compare.main(["mnist_rot", *arguments, *results, *more])

    def cells(self):
        """The cells of the comparison, a list for each run."""
        lines = (self.own / "comparison.md").read_text("utf-8").splitlines()
        rows = [line for line in lines if line.startswith("| `")]
        return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.fixture
def place(tmp_path):
    return OwnPlace(tmp_path)


def test_each_run_stands_beside_the_paper_and_the_committed_run(place, capsys):
    """The same run, the same with another error, another seed, other settings, unfinished."""
    place.commit(record(2.1, 0), record(2.3, 1))
    place.put(
        record(2.1, 0), record(2.5, 1), record(2.6, 2), record(3.0, 3, overrides="group=p4"),
        record(None, 4, status="interrupted", epochs=7),
    )  # fmt: skip
    before = snapshot(place.results)
    assert place.compare() == 0
    assert snapshot(place.results) == before
    row = "`mnistrot_pdo_p8`"
    assert place.cells() == [
        [f"{row} seed 0", "1.87", "2.100", "2.100", "+0.000", "yes", "a CPU"],
        [f"{row} seed 1", "1.87", "2.300", "2.500", "+0.200", "no", "a CPU"],
        [f"{row} seed 2", "1.87", "2.200 (mean, n = 2)", "2.600", "+0.400", "–", "a CPU"],
        [f"{row} seed 4", "1.87", "2.200 (mean, n = 2)", "interrupted after epoch 7", "–", "–",
         "a CPU"],
        [f"{row} seed 3 `group=p4`", "–", "–", "3.000", "–", "–", "a CPU"],
    ]  # fmt: skip
    *_, first, where, last = capsys.readouterr().out.splitlines()
    assert "4 of 5 runs finished, 1 identical bit for bit" in first and "0.40 points" in first
    assert str(place.own / "comparison.md") in where and "results/ is unchanged" in last
    assert "2.400 ± 0.265 (n = 3)" in (place.own / "table.md").read_text("utf-8")


def test_one_run_ends_in_a_sentence_about_it(place, capsys):
    place.commit(record(2.1, 0)).put(record(2.1, 0))
    assert place.compare() == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-3])) <= 120
    assert lines[-3] == (
        "It works: mnistrot_pdo_p8 seed 0: 2.10 % test error, committed 2.10 %, paper 1.87 %, "
        "identical bit for bit."
    )


def test_equal_errors_on_other_curves_are_not_identical(place):
    place.put(record(2.1, 0))
    folder = with_details(place)
    assert place.publish() == 0 and place.compare() == 0
    assert place.cells()[0][5] == "yes"
    metrics = folder / "metrics.jsonl"
    metrics.write_text(metrics.read_text("utf-8").replace("0.5", "0.500001"), "utf-8")
    assert place.compare() == 0 and place.cells()[0][5] == "no"
    (place.results / "details" / "id0.json").write_bytes(b"{")
    assert place.compare() == 0 and place.cells()[0][5] == "yes"  # by its errors alone


def test_the_committed_run_of_the_same_device_is_compared(place):
    elsewhere = {"device": "another CPU", "started": "2025-01-01T00:00:00+00:00"}
    place.commit(record(2.1, 0), record(2.4, 0, **elsewhere)).put(record(2.4, 0, **elsewhere))
    assert place.compare() == 0 and place.cells()[0][2:6] == ["2.400", "2.400", "+0.000", "yes"]


def test_without_options_outputs_are_read_and_results_stay(place, tmp_path, monkeypatch):
    """In a copy of the repository's folders."""
    for name in ("experiments", "results"):
        for path in ROOT.glob(f"{name}/*/*.csv"):
            write_whole(tmp_path / path.relative_to(ROOT), path.read_bytes())
    before = snapshot(tmp_path / "results")
    place.put(record(2.1, 0), record(61.0, 1, overrides="recipe.epochs=1"))
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    monkeypatch.setattr(compare, "OUTPUTS", tmp_path / "outputs")
    assert compare.main(["mnist_rot", "cifar"]) == 0
    assert snapshot(tmp_path / "results") == before
    assert "61.000" in (place.outputs / "tables/mnist_rot/comparison.md").read_text("utf-8")


def test_without_runs_one_line_says_what_makes_one(place, capsys):
    assert place.compare() == 0
    assert capsys.readouterr().out.splitlines() == [
        "No run of mnist_rot was found. To make one: make reproduce-mnistrot"
    ]


def test_smoke_runs_are_read_and_written_below_smoke_alone(place, capsys):
    place.put(record(2.1, 0)).commit(record(2.2, 5)).put(record(61.0, 1, epochs=1), under="smoke")
    before = snapshot(place.results)
    assert place.compare("--rows", "mnistrot_pdo_p8", scale="smoke") == 0
    assert snapshot(place.results) == before
    text = (place.own / "table.md").read_text("utf-8")
    assert "smoke scale: not a reproduction" in text and "not comparable (smoke scale)" in text
    assert "61.000" in text and "2.100" not in text
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0] == (
        "It works: test error 61 % (mnistrot_pdo_p8) after 1 epoch on a few images, as expected."
    )


def test_the_full_table_never_sees_a_smoke_run(place):
    place.put(record(61.0, 1), under="smoke").put(record(2.1, 0))
    assert place.publish() == 0 and "id1" not in place.csv
    inside = ["mnist_rot", "--runs", str(place.outputs / "smoke"), "--write", str(place.results)]
    assert compare.main(inside) == 2
    assert compare.main(["mnist_rot", "--scale", "smoke", "--publish"]) == 2


def test_hostile_text_stays_one_line_of_the_comparison(place):
    place.put(record(2.1, 0, overrides="a=`|<!-- x", device="| <!-- /table -->"))
    assert place.compare() == 0
    text = (place.own / "comparison.md").read_text("utf-8")
    assert "<!--" not in text and json.dumps(text).count("seed 0") == 1


def test_the_last_line_says_that_trials_never_enter_the_results(place, capsys):
    place.put(record(61.0, 1, overrides="recipe.epochs=1"))
    assert place.compare() == 0
    assert "never added to it" in capsys.readouterr().out.splitlines()[-1]
    place.put(record(2.1, 0))
    assert place.compare() == 0
    assert "PUBLISH=1" in capsys.readouterr().out.splitlines()[-1]
