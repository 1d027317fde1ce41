"""The data set and its batches: normalised, rotated, shifted and mirrored as defined."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import colours as images_of
from samples import seeded, synthetic, tiny_arrays
from torch import Tensor

from pdoe.data import (
    DataSet,
    epoch_batches,
    random_crop_flip,
    random_quarter_turns,
    random_rotation,
    random_stretch,
    to_input,
)
from pdoe.data.augmentation import crop_flip, rotate
from pdoe.data.dataset import channel_statistics, digest, make_data_set, pixel_statistics
from pdoe.data.rotation import rotate_gaussian


def test_statistics_are_those_of_value_over_256():
    images = synthetic(9)
    mean, std = pixel_statistics(images)
    assert mean == pytest.approx((images / 256).mean(), abs=1e-12)
    assert std == pytest.approx((images / 256).std(), abs=1e-12)


def test_a_data_set_has_typed_tensors_and_moves_as_a_whole():
    data = make_data_set("x", "original", tiny_arrays(), classes=10)
    assert data.train_images.dtype == data.test_images.dtype == torch.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64
    moved = data.to("meta")
    assert moved.test_labels.device.type == moved.train_images.device.type == "meta"
    assert (moved.mean, moved.std, moved.sha256) == (data.mean, data.std, data.sha256)


def test_the_digest_sees_every_part_and_its_shape():
    seen = {digest(tiny_arrays())}
    for part in tiny_arrays():
        arrays = tiny_arrays()
        arrays[part] = arrays[part].copy()
        arrays[part].flat[-1] ^= 1
        seen.add(digest(arrays))
    arrays = tiny_arrays()
    arrays["test_images"] = arrays["test_images"].reshape(2, 1, 14, 56)
    seen.add(digest(arrays))
    assert len(seen) == 6


def test_an_epoch_visits_every_image_once():
    batches = list(epoch_batches(103, 10, seeded(0), drop_last=False))
    assert [len(batch) for batch in batches] == [10] * 10 + [3]
    assert batches[0].dtype == torch.int64
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(103))


def test_the_last_partial_batch_is_dropped_and_the_rest_is_the_same():
    full = list(epoch_batches(103, 10, seeded(0), drop_last=False))
    cut = list(epoch_batches(103, 10, seeded(0)))
    assert len(cut) == 10
    assert all(torch.equal(a, b) for a, b in zip(full, cut, strict=False))
    assert len(list(epoch_batches(100, 10, seeded(0)))) == 10


def test_a_seed_fixes_the_order_and_epochs_differ():
    generator = seeded(1)
    first, second = (torch.cat(list(epoch_batches(50, 5, generator))) for _ in range(2))
    assert torch.equal(first, torch.cat(list(epoch_batches(50, 5, seeded(1)))))
    assert not torch.equal(first, second)


def test_an_epoch_without_batches_is_refused():
    for count, size in ((5, 6), (0, 1), (5, 0)):
        with pytest.raises(ValueError, match=str(size)):
            epoch_batches(count, size, seeded(0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_a_quarter_turn_is_counter_clockwise_and_exact(dtype):
    x = torch.from_numpy(synthetic(4))[:, None].to(dtype)
    turned = rotate(x, torch.arange(4, dtype=torch.float64) * (math.pi / 2))
    expected = torch.stack([torch.rot90(image, k, (1, 2)) for k, image in enumerate(x)])
    assert turned.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 1e-11 if dtype == torch.float64 else 5e-3  # in grey levels of 255
    assert (turned - expected).abs().max() < tolerance


def test_a_half_turn_of_an_oblong_image_and_a_small_turn_keep_the_pixels_square():
    x = torch.from_numpy(synthetic(1))[:, None, :10].double()
    half, quarter = (torch.tensor([angle], dtype=torch.float64) for angle in (math.pi, math.pi / 2))
    assert (rotate(x, half) - x.flip(2, 3)).abs().max() < 1e-10
    dot = torch.zeros(1, 1, 9, 21, dtype=torch.float64)
    dot[..., 4 - 1, 10 + 3] = 1  # one up and three to the right of the centre
    turned = rotate(dot, quarter)
    assert turned[0, 0, 4 - 3, 10 - 1] == pytest.approx(1) and turned.sum() == pytest.approx(1)


def test_each_image_turns_by_an_angle_of_its_own_from_the_seed():
    x = torch.from_numpy(synthetic(1))[:, None].expand(6, 1, 28, 28).double()
    turned = random_rotation(x, seeded(3))
    assert torch.equal(turned, random_rotation(x, seeded(3)))
    assert min((turned[i] - turned[j]).abs().max() for i in range(6) for j in range(i)) > 1
    angles = torch.rand(6, generator=seeded(3), dtype=torch.float64) * 2 * math.pi
    for i in range(6):
        assert (rotate(x[i : i + 1], angles[i : i + 1]) - turned[i]).abs().max() < 1e-10


def test_each_image_is_stretched_along_two_axes_of_its_own_and_turned():
    """The covariance of a round spot becomes an ellipse whose axes are known from the draws."""
    side, width, count = 41, 3.0, 64
    y, x = torch.meshgrid(*(torch.arange(side) - (side - 1) / 2.0,) * 2, indexing="ij")
    spot = torch.exp(-(x**2 + y**2) / (2 * width**2)).double()
    images = spot.expand(count, 2, side, side)
    stretched = random_stretch(images, seeded(3))
    assert stretched.dtype == torch.float64 and stretched.shape == images.shape
    assert torch.equal(stretched, random_stretch(images, seeded(3)))
    assert random_stretch(images.to(torch.uint8), seeded(3)).dtype == torch.float32

    weights = stretched[:, 0] / stretched[:, 0].sum((1, 2), keepdim=True)
    moments = [(weights * a * b).sum((1, 2)) for a in (x, y) for b in (x, y)]
    found = torch.stack(moments, 1).view(count, 2, 2)
    axes = torch.linalg.eigvalsh(found).sqrt() / width
    draws = torch.rand((4, count), generator=seeded(3), dtype=torch.float64)
    lengths = (-0.15 * (2 * draws[2:].T - 1)).exp()
    assert (axes - lengths.sort(dim=1).values).abs().max() < 0.02
    # The long axis points anywhere, however the images are turned afterwards.
    angles = 0.5 * torch.atan2(2 * found[:, 0, 1], found[:, 0, 0] - found[:, 1, 1])
    assert torch.histc(angles, 4, -math.pi / 2, math.pi / 2).min() > count / 16

    # Without a stretch it is a turn, by both angles together.
    digits = torch.from_numpy(synthetic(count))[:, None].double()
    both = 2 * math.pi * draws[:2].sum(0)
    assert (random_stretch(digits, seeded(3), 0.0) - rotate(digits, both)).abs().max() < 1e-9
    with pytest.raises(ValueError, match=r"expected images \[B, C, H, W\], got \[64, 28, 28\]"):
        random_stretch(digits[:, 0], seeded(3))


def test_the_gaussian_mode_rotates_as_mnist_rot_does():
    """Bilinear interpolation at moved points is the Gaussian average, but for distant pixels."""
    digits = synthetic(50)
    angles = np.linspace(-4, 4, 50)
    expected = torch.from_numpy(rotate_gaussian(digits.astype(float), angles)).transpose(1, 2)
    images, clockwise = torch.from_numpy(digits)[:, None], torch.from_numpy(-angles)
    for kind in (torch.uint8, torch.float64):
        found = rotate(images.to(kind), clockwise, "gaussian")[:, 0]
        assert (found - expected).abs().max() < 2.5, kind
    assert (rotate(images, clockwise)[:, 0] - expected).abs().max() > 50
    # The frame need not be square.
    wide = rotate(images[..., :20], torch.full((50,), math.pi, dtype=torch.float64), "gaussian")
    assert (wide - images[..., :20].flip(2, 3)).abs().max() < 2.5
    stretched = random_stretch(images, seeded(3), 0.0, "gaussian")
    assert torch.equal(stretched, random_stretch(images, seeded(3), 0.0, mode="gaussian"))
    assert (stretched - random_stretch(images, seeded(3), 0.0)).abs().max() > 50


def test_every_image_is_turned_by_a_quarter_turn_of_its_own():
    x = torch.randint(0, 256, (200, 2, 5, 5), dtype=torch.uint8)
    before = x.clone()
    turned = random_quarter_turns(x, seeded(3))
    assert torch.equal(x, before) and turned.dtype == torch.uint8
    assert torch.equal(turned, random_quarter_turns(x, seeded(3)))
    quarters = [
        [k for k in range(4) if torch.equal(torch.rot90(a, k, (1, 2)), b)]
        for a, b in zip(x, turned, strict=True)
    ]
    assert all(len(k) == 1 for k in quarters)
    counts = [quarters.count([k]) for k in range(4)]
    assert min(counts) > 30


def test_only_square_images_have_quarter_turns():
    with pytest.raises(ValueError, match="expected square images"):
        random_quarter_turns(torch.zeros(2, 1, 4, 6), seeded(0))


def test_held_out_images_are_the_last_of_the_training_set_and_nothing_else():
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)
    data = DataSet(
        "d", "original", "0", images, images.flatten().long(), 20 + images, images, 1, 1, 9
    )
    split = data.hold_out(3)
    assert split.train_images.flatten().tolist() == split.train_labels.tolist() == [*range(7)]
    assert split.test_images.flatten().tolist() == split.test_labels.tolist() == [7, 8, 9]
    assert split.provenance == "original, 3 held out"
    assert split.mean == pytest.approx(3 / 256) and split.std == pytest.approx(2 / 256)
    with pytest.raises(ValueError, match="every digit in three images"):
        replace(data, provenance="embedded").hold_out(3)
    for count in (10, -1, "many", True):
        with pytest.raises(ValueError, match=f"between 1 and 9 training images.*not {count!r}"):
            data.hold_out(count)


def test_folds_hold_out_every_training_image_once():
    images = torch.arange(12, dtype=torch.uint8).reshape(12, 1, 1, 1)
    data = DataSet(
        "d", "original", "0", images, images.flatten().long(), 20 + images, images, 1, 1, 12
    )
    folds = [data.hold_out(4, fold=fold) for fold in range(3)]
    for number, fold in enumerate(folds):
        held_out = [*range(4 * number, 4 * number + 4)]
        left = [image for image in range(12) if image not in held_out]
        assert fold.test_images.flatten().tolist() == fold.test_labels.tolist() == held_out
        assert fold.train_images.flatten().tolist() == fold.train_labels.tolist() == left
        assert fold.mean == pytest.approx(sum(left) / 8 / 256)
        assert fold.provenance == f"original, fold {number}, 4 held out"
    assert torch.equal(folds[2].train_images, data.hold_out(4).train_images)
    kept = data.hold_out(4, keep_test=True, fold=1)
    assert torch.equal(kept.test_images, data.test_images)
    assert kept.validation.test_images.flatten().tolist() == [4, 5, 6, 7]
    for wrong in (3, -1, True, "0"):
        with pytest.raises(ValueError, match=f"from 0 to 2 with.*not {wrong!r}"):
            data.hold_out(4, fold=wrong)
    with pytest.raises(ValueError, match="validation=5 does not divide 12"):
        data.hold_out(5, fold=0)


def test_rotation_refuses_shapes_it_does_not_know():
    with pytest.raises(ValueError, match="images"):
        rotate(torch.zeros(2, 3, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="angles"):
        rotate(torch.zeros(2, 1, 3, 3), torch.zeros(1))


def test_images_of_one_channel_have_one_number_each():
    images = images_of(250, 0)  # more than one piece
    for parts in ([images], [images[:101], images[101:]]):
        grey = channel_statistics(*(part[:, :1] for part in parts))
        assert type(grey[0]) is type(grey[1]) is float
        assert grey == pixel_statistics(images[:, 0])
        values = np.bincount(images[:, 0].ravel(), minlength=256)
        total, first, second = (int((values * np.arange(256) ** k).sum()) for k in range(3))
        assert grey[0] == first / total / 256
        assert grey[1] == (second * total - first * first) ** 0.5 / total / 256
        assert [pair[0] for pair in channel_statistics(*parts)] == [grey[0], grey[1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_input_has_mean_zero_and_variance_one_in_each_channel(dtype):
    images = torch.from_numpy(images_of(20, 0))
    mean, std = channel_statistics(images.numpy())
    for raw in (images, images.float(), images.to(memory_format=torch.channels_last)):
        before = raw.clone()
        x = to_input(raw, mean, std, dtype)
        assert x.dtype == dtype and x.shape == images.shape and torch.equal(raw, before)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        assert x.mean((0, 2, 3)).abs().max() < tolerance
        assert (x.std((0, 2, 3), correction=0) - 1).abs().max() < tolerance


def test_a_number_and_a_tuple_of_equal_numbers_give_the_same_bits():
    images = torch.from_numpy(images_of(5, 0))
    mean, std = 0.13066047, 0.30810780
    expected = images.float().div(256).sub(mean).div(std)
    assert torch.equal(to_input(images, mean, std), expected)
    assert torch.equal(to_input(images, (mean,) * 3, (std,) * 3), expected)
    with pytest.raises(ValueError):
        to_input(images, (mean,) * 2, (std,) * 2)


# --- shifts and reflections -----------------------------------------------------------------------


def marked(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images `[count, 1, 32, 32]` all of whose pixels differ, and none is 0."""
    return torch.arange(1, 1025).to(dtype).reshape(1, 1, 32, 32).repeat(count, 1, 1, 1)


def moves(images: Tensor) -> Tensor:
    """Row, column (0..8) and flip (0, 1) of marked images, int64 `[N, 3]`, read off two pixels."""
    here, right = (images[:, 0, 16, column].long() - 1 for column in (16, 17))
    flips = (right < here).long()
    rows, columns = here // 32 - 12, here % 32 - 12 + flips
    return torch.stack([rows, columns, flips], dim=1)


def surprise(counts: Tensor) -> float:
    """Chi-square of counts against equal ones, in standard deviations above its mean."""
    expected, freedom = counts.sum() / counts.numel(), counts.numel() - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


def cells(drawn: Tensor) -> Tensor:
    """How often each of the 9 x 9 x 2 moves came."""
    return torch.bincount(drawn @ torch.tensor([18, 2, 1]), minlength=162).double()


def test_every_image_is_padded_cut_and_mirrored_as_the_definition_says():
    images = torch.from_numpy(images_of(162, 0))
    offsets = torch.cartesian_prod(torch.arange(9), torch.arange(9)).repeat(2, 1)
    flips = torch.arange(162) >= 81
    moved = crop_flip(images, offsets, flips, padding=4, fill=(1.5, 2.0, 255.0))
    for image, (row, column), flipped, result in zip(images, offsets, flips, moved, strict=True):
        padded = torch.stack([torch.full((40, 40), value) for value in (1.5, 2.0, 255.0)])
        padded[:, 4:36, 4:36] = image
        window = padded[:, row : row + 32, column : column + 32]
        assert torch.equal(result, window.flip(2) if flipped else window)
    oblong = crop_flip(images[:2, :, :7, :9], offsets[:2], flips[:2], padding=4)
    assert torch.equal(oblong[0, :, 4:, 4:], images[0, :, :3, :5].float()) and oblong.sum() > 0


@pytest.mark.slow
def test_moves_are_distributed_as_those_of_torchvision():
    transforms = pytest.importorskip("torchvision").transforms
    theirs = transforms.Compose(
        [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    )
    count = 8100
    drawn = moves(random_crop_flip(marked(count), seeded(1)))
    reference = moves(torch.stack([theirs(image) for image in marked(count)]))
    for table in (cells(drawn), cells(reference)):
        assert table.min() > 0 and surprise(table) < 4
    difference = (cells(drawn) - cells(reference)) ** 2 / (cells(drawn) + cells(reference))
    assert (difference.sum() - 161) / (2 * 161) ** 0.5 < 4
    assert not torch.equal(drawn, reference)


def test_each_image_moves_on_its_own_from_the_seed():
    count = 16200
    drawn = moves(random_crop_flip(marked(count), generator := seeded(2)))
    again = moves(random_crop_flip(marked(count), generator))
    assert torch.equal(drawn, moves(random_crop_flip(marked(count), seeded(2))))
    neighbours = torch.cat([drawn[::2], drawn[1::2]], dim=1)
    for pairs in (neighbours, torch.cat([drawn, again], dim=1)):  # next to each other, and epochs
        for a in range(3):
            for b in range(3):
                width = 2 if b == 2 else 9
                size = width * (2 if a == 2 else 9)
                table = torch.bincount(pairs[:, a] * width + pairs[:, 3 + b], minlength=size)
                assert surprise(table.double()) < 5


def test_without_flip_and_with_other_paddings():
    drawn = moves(random_crop_flip(marked(500), seeded(3), padding=2, flip=False))
    assert drawn[:, 2].sum() == 0
    assert drawn[:, :2].unique().tolist() == [2, 3, 4, 5, 6]  # as if the padding were 4
    still = random_crop_flip(marked(3), seeded(3), padding=0, flip=False)
    assert torch.equal(still, marked(3))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_the_images_stay_as_they_are_and_keep_their_scale(dtype):
    images = torch.from_numpy(images_of(9, 0)).to(dtype)
    before = images.clone()
    moved = random_crop_flip(images, seeded(4))
    assert torch.equal(images, before)
    assert moved.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert moved.shape == images.shape and moved.is_contiguous()
    assert set(moved.unique().tolist()) <= set(before.unique().tolist()) | {0.0}


def test_padding_with_the_mean_is_zero_in_the_network():
    images = torch.full((50, 3, 32, 32), 200, dtype=torch.uint8)
    mean, std = (0.48948014862060546, 0.4802749771118164, 0.4447866530609131), (0.25, 0.24, 0.26)
    fill = tuple(256 * value for value in mean)
    x = to_input(random_crop_flip(images, seeded(5), fill=fill), mean, std)
    normalised_first = random_crop_flip(to_input(images, mean, std), seeded(5))
    assert torch.equal(x, normalised_first) and (x == 0).sum() > 0
    with pytest.raises(ValueError):
        random_crop_flip(images, seeded(5), fill=fill[:2])


def test_moves_refuse_shapes_they_do_not_know():
    images, offsets, flips = marked(2), torch.zeros(2, 2).long(), torch.zeros(2).bool()
    for wrong in (
        (images[0], offsets, flips),
        (images, offsets[:1], flips),
        (images, flips, flips),
    ):
        with pytest.raises(ValueError, match=r"expected images \[B, C, H, W\], offsets"):
            crop_flip(*wrong, padding=4)
