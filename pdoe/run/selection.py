"""Evaluate the epochs of a run, and keep the best epoch's weights where those are what counts."""

from __future__ import annotations

import time

from torch import Tensor, nn

from ..data import DataSet
from .evaluation import compute_error, confusion_matrix
from .limits import Limits
from .options import Options
from .progress import Display
from .recipe import Recipe
from .state import Position, Progress


class Evaluator:
    """Tests a network after the epochs for which the recipe asks for it.

    Args:
        model: the network that is tested; where weights are averaged, the average.
        data: the epochs are tested on its test images, or on its validation images where the
            recipe selects an epoch on those.
        recipe: which epochs are tested, on how many images, and which one is selected.
        options: precision and ranks.
        limits, display: of the run.
    """

    def __init__(
        self,
        model: nn.Module,
        data: DataSet,
        recipe: Recipe,
        options: Options,
        limits: Limits,
        display: Display,
    ):
        self.model, self.data, self.recipe, self.options = model, data, recipe, options
        self.limits, self.display = limits, display
        self.examined = data.validation if recipe.evaluate_select == "validation" else data

    @property
    def sees_test_images(self) -> bool:
        """Whether the epochs are tested on the test images, and not on held-out ones."""
        return self.examined is self.data

    def evaluate(self, progress: Progress) -> float | None:
        """The error after the epoch whose steps are done, in per cent; None if none is due.

        Also None, with the reason in ``progress.stopped``, where there is no time for it: the epoch
        is complete then, but for its test.
        """
        if not self.recipe.tests(progress.epoch + 1):
            return None
        began = time.perf_counter()
        progress.stopped = self.limits.reason_to_stop(progress.evaluation_seconds or 0.0)
        confusion = None if progress.stopped else self._test(self.examined, progress)
        if confusion is None:
            return None
        self.limits.worked = True
        progress.confusion = confusion.tolist()
        progress.evaluation_seconds = time.perf_counter() - began
        return compute_error(confusion)

    def select(self, score: float | None, progress: Progress, position: Position) -> None:
        """Keep the weights of the epoch if they are the best so far, where that is what counts."""
        if self.recipe.evaluate_select != "last" and progress.select(score):
            weights = self.model.state_dict()
            position.selected = {k: v.detach().cpu().clone() for k, v in weights.items()}

    def test_selected(self, progress: Progress, position: Position) -> None:
        """Test the weights of the selected epoch, which stay in the model."""
        self.model.load_state_dict(position.selected)
        confusion = self._test(self.data, progress)
        if confusion is None:
            return
        progress.test_error = compute_error(confusion)
        if self.sees_test_images:  # else the test set is seen here alone
            progress.update_best()
        progress.confusion = confusion.tolist()

    def _test(self, data: DataSet, progress: Progress) -> Tensor | None:
        """The confusion matrix; None, and the reason in the progress, where it was stopped."""
        ranks, precision = self.options.ranks, self.options.precision
        ranks.share_buffers(self.model)
        count, angles = self.recipe.test_images, self.recipe.evaluate_tta_angles
        show = self.display.begin_test(progress, len(data.test_images[:count]))
        asked = ranks, lambda: bool(self.limits.reason_to_stop()), angles, show
        confusion = confusion_matrix(self.model, data, precision, count, *asked)
        if confusion is None:
            progress.stopped = self.limits.reason_to_stop()
        return confusion
