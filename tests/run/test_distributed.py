"""Ranks that train together, as `torchrun` starts them: real processes joined by gloo."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from pdoe import GroupConv, LiftingConv, PointGroup
from pdoe.data import DataSet
from pdoe.fast import Dropout
from pdoe.models.roteqnet import VectorNorm
from pdoe.run.evaluation import compute_error, confusion_matrix, evaluate
from pdoe.run.ranks import Ranks, describe_ranks, find_local_norms, join, leave
from pdoe.run.training import fit

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "epochs": 3,
    "batch_size": 9,
    "learning_rate": [[0, 0.05], [3, 0.0]],
    "schedule": "linear",
    "optimizer": "sgd",
    "weight_decay": 1e-3,
    "average": 0.9,
    "augment": "crop_flip",
    "evaluate_every": 1,
    "precision": "fp64",
}


def toy():
    """Forty-three 8x8 images for training, and as many for testing: no multiple of anything."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (43, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = images[:, 0, :, :4].double().mean((1, 2)).gt(127).long()
    return DataSet("toy", "made up", "0", images, labels, images, labels, 0.5, 0.3, 2)


def network(statistics: bool):
    torch.manual_seed(0)
    group = PointGroup(4)
    between = [nn.BatchNorm3d(2), nn.ReLU(), Dropout(0.2)] if statistics else [nn.ReLU()]
    return nn.Sequential(
        LiftingConv(group, 1, 2), *between, GroupConv(group, 2, 2), nn.Flatten(), nn.Linear(512, 2)
    ).double()


def trained(statistics, ranks, **more):
    model, rows = network(statistics), []
    torch.manual_seed(ranks.rank)  # dropout of its own
    fit(model, toy(), **SETTINGS, ranks=ranks, log=lambda row, _: rows.append(row), **more)
    return model.state_dict(), rows


def in_slices(ranks, folder):
    for _ in range(40):  # 15 steps and 3 evaluations
        model = network(True)
        torch.manual_seed(ranks.rank)
        progress = fit(model, toy(), **SETTINGS, ranks=ranks, checkpoint=folder, max_seconds=0)
        if progress.epoch == 3:
            return model.state_dict()
    raise AssertionError("it never ends")


def work(folder: Path) -> None:
    """What each rank does."""
    ranks, _ = join(torch.device("cpu"))
    together, rows = trained(False, ranks)
    whole, _ = trained(True, ranks)
    sliced = in_slices(ranks, folder / "checkpoint")
    shares = ranks.of_all(ranks.share(torch.arange(10)).tolist())
    error = compute_error(confusion_matrix(network(False), toy(), "fp64", 11, ranks))
    torch.save(
        {"together": together, "rows": rows, "whole": whole, "sliced": sliced, "error": error},
        folder / f"{ranks.rank}.pt",
    )
    (folder / f"{ranks.rank}.json").write_text(json.dumps(shares))
    leave()
    (folder / f"{ranks.rank}.threads").write_text(json.dumps(threads()))


def threads() -> list[str]:
    """The names of this process's threads, where the system tells them."""
    return sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))


def torchrun(*command, folder, ranks):
    process = subprocess.Popen(
        [*(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}")]
        + ["--standalone", *(str(word) for word in command)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=300)
    finally:  # ranks that wait for each other would outlive a test that fails
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    done = torchrun(__file__, folder, folder=folder, ranks=3)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(3)], folder


def assert_equal(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], **tolerance)


def test_ranks_train_as_one_does(of_ranks, one_thread):
    """Without batch norm and dropout, which see a rank's own images alone."""
    (first, *others), _ = of_ranks
    alone, rows = trained(False, Ranks())
    for rank in (first, *others):
        assert_equal(rank["together"], alone, rtol=1e-10, atol=1e-10)
    assert [rank["rows"] for rank in others] == [[], []]  # one rank speaks
    for row, expected in zip(first["rows"], rows, strict=True):
        assert {k: v for k, v in row.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in expected.items() if k != "seconds"}, rel=1e-10
        )


def test_the_shares_of_a_batch_are_disjoint_and_make_it_up(of_ranks):
    shares = json.loads((of_ranks[1] / "0.json").read_text())
    assert sorted(sum(shares, [])) == list(range(10)) and len(shares[0]) == 4


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system tells no threads")
@pytest.mark.parametrize("rank", range(3))
def test_no_thread_that_spoke_to_other_ranks_outlives_the_work(of_ranks, rank):
    """One that lets go of a tensor when the interpreter is gone aborts the process (torch 2.14)."""
    left = json.loads((of_ranks[1] / f"{rank}.threads").read_text())
    assert left and not [name for name in left if "gloo" in name]


def test_evaluation_counts_every_image_once(of_ranks, one_thread):
    alone = evaluate(network(False), toy(), "fp64", 11)
    assert [rank["error"] for rank in of_ranks[0]] == [alone] * 3


def test_ranks_that_are_interrupted_at_every_step_end_as_if_they_had_not_been(of_ranks):
    """With running statistics and dropout: each rank has its random state back."""
    (first, *others), _ = of_ranks
    assert_equal(first["sliced"], first["whole"], rtol=0, atol=0)
    for name, value in first["whole"].items():
        if "running" not in name and "num_batches" not in name:  # those are the first rank's
            for rank in others:
                torch.testing.assert_close(rank["whole"][name], value, rtol=0, atol=0)


def test_norms_that_see_the_images_of_one_rank_are_found():
    norms = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(VectorNorm(2)), nn.SyncBatchNorm(2))
    assert find_local_norms(norms) == ["BatchNorm2d", "VectorNorm"]
    assert find_local_norms(network(False)) == []
    assert "; batch norm sees the 3 images of a rank" in describe_ranks(norms, Ranks(0, 3), 9)
    assert "batch norm" not in describe_ranks(network(False), Ranks(0, 3), 9)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="a batch of 9 cannot be shared evenly by 2 ranks"):
        fit(network(False), toy(), **SETTINGS, ranks=Ranks(0, 2))


def test_torchrun_leaves_one_run_whose_record_names_the_ranks(tmp_path):
    command = [
        *("train.py", "experiment=mnistrot_p4", "recipe=smoke", "data.source=embedded"),
        *("recipe.train_images=128", "recipe.test_images=100", "tracking=disabled"),
    ]
    outputs = f"outputs={tmp_path}/outputs"
    done = torchrun(*command, outputs, folder=ROOT, ranks=2)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "outputs").rglob("result.json")
    record = json.loads(path.read_text())
    assert record["status"] == "finished" and record["ranks"] == 2
    assert record["shared"].startswith(
        "2 ranks of 64 images; batch norm sees the 64 images of a rank"
    )
    assert done.stdout.count("finished: test error") == 1  # one rank speaks
    for warned in ("find_unused_parameters", "Grad strides"):  # torch's, about what is on purpose
        assert warned not in done.stderr
    assert "2 ranks of 64 images; batch norm sees the 64 images of a rank" in done.stdout
    again = torchrun(*command, outputs, folder=ROOT, ranks=2)
    assert again.returncode == 0 and again.stdout.count("already finished") == 1


if __name__ == "__main__":
    work(Path(sys.argv[1]))
