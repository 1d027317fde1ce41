"""The time that a run takes on this machine, estimated from a few of its steps."""

from __future__ import annotations

import time
from typing import Any

import torch

from ..data import SETS, to_input
from ..fast import replay_as_graphs
from .config import build_model, find_images
from .diagnostics import ANGLES, count_rotated
from .evaluation import autocast, number_type
from .hardware import SWITCHES, Settings
from .optimizer import make_optimizer
from .recipe import Recipe
from .training import train_step

ENOUGH = 1.0  # seconds of steps that are timed, or four of them


def estimate_seconds(config: dict[str, Any], device: torch.device) -> float:
    """Estimate the seconds of a whole run of a resolved configuration, without data and start.

    Training steps and test batches are timed on images of noise, on a CPU on at most 32 of them,
    after one of each that is not timed. Augmentation is left out; other load on the machine makes
    the estimate larger.
    """
    recipe, name = Recipe.of(config["recipe"]), config["data"]["name"]
    train_images, test_images = SETS[name].images
    train_images = min(train_images, recipe.train_images or train_images)
    train_images = recipe.epoch_images or train_images
    test_images = min(test_images, recipe.test_images or test_images)
    step, test = measure_seconds_per_image(config, device)
    seen = train_images // recipe.batch_size * recipe.batch_size
    tests = sum(map(recipe.tests, range(1, recipe.epochs + 1))) + (recipe.evaluate_select != "last")
    tests *= len(recipe.evaluate_tta_angles) or 1
    turned = len(ANGLES) * count_rotated(recipe.test_images, SETS[name].images[1])
    return recipe.epochs * seen * step + (tests * test_images + turned) * test


def measure_seconds_per_image(config: dict[str, Any], device: torch.device) -> tuple[float, float]:
    """The seconds of a training step and of a test, for one image."""
    channels, classes, size = find_images(config)
    precision, recipe = config["precision"], config["recipe"]
    count = min(recipe["batch_size"], 32) if device.type == "cpu" else recipe["batch_size"]
    model = build_model(config).to(device)
    if precision == "fp64":
        model.double()
    settings, _ = Settings.resolve(dict.fromkeys(SWITCHES, "auto"), device, model)
    settings.apply(model)
    optimizer = make_optimizer(recipe["optimizer"], model, recipe["weight_decay"])
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, device=device)
    labels = torch.randint(0, classes, (count,), device=device)
    if settings.cuda_graph:
        replay_as_graphs(model, to_input(images, 0.5, 0.25, number_type(precision)), precision)

    def inputs() -> torch.Tensor:
        return to_input(images, 0.5, 0.25, number_type(precision))

    def step() -> float:
        loss, _ = train_step(model, optimizer, inputs(), labels, precision)
        return loss.item()  # waits for a GPU

    @torch.no_grad()
    def test() -> float:
        with autocast(device, precision):
            return model(inputs()).sum().item()

    seconds = []
    for mode, action in ((True, step), (False, test)):
        model.train(mode)
        began = time.perf_counter()
        action()
        times = int(time.perf_counter() - began > 10 * ENOUGH)  # a slow first one is enough
        if not times:
            began = time.perf_counter()
        while times < 4 and time.perf_counter() - began < ENOUGH:
            action()
            times += 1
        seconds.append((time.perf_counter() - began) / times / count)
    return seconds[0], seconds[1]
