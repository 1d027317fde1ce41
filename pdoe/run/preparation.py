"""Prepare a run on this machine: its ranks and device, its data, its network and settings."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig

from ..fast import jet
from ..fast.jet.library import has_amx_products
from .config import build_model, load_configured_data
from .hardware import Settings, device_name, make_repeatable, resolve_device
from .options import check
from .provenance import label_device, reset_peak_memory
from .ranks import join, synchronise_norms
from .recipe import Recipe


class Setup:
    """The data and the network of a run, on the device of this process.

    Args:
        cfg: the composed configuration.
        config: the resolved one.

    Attributes:
        ranks, device: this process among those that train together, and its device.
        data: on the device.
        model: the network, on the device.
        settings: how the network is run.
        chosen: a line for each setting, such as "compile: no".
        jet: how layers use the jet form, as a checkpoint records it; None where none does.

    Raises:
        ValueError: this machine has no such device.
    """

    def __init__(self, cfg: DictConfig, config: dict[str, Any]):
        self.cfg, self.config = cfg, config
        self.ranks, self.device = join(resolve_device(cfg.device))

    def load(self, recipe: Recipe) -> None:
        """Load the data.

        Raises:
            ValueError: the recipe does not fit the data, or the ranks.
            DataError: the data cannot be had.
        """
        make_repeatable(self.device, self.cfg.deterministic in ("auto", True))
        reset_peak_memory()
        root = self.cfg.data.root
        data = self.ranks.first_before_others(lambda: load_configured_data(self.config, root))
        self.data = data.to(self.device)
        check(recipe, self.data, self.ranks.count)

    def build(self) -> None:
        """Build the network, with the settings that ``auto`` stands for here."""
        cfg = self.cfg
        torch.manual_seed(cfg.seed)
        model = build_model(self.config, self.data).to(self.device)
        if self.config["precision"] == "fp64":
            model.double()
        self.settings, self.chosen = Settings.resolve(cfg, self.device, model, self.ranks.count)
        if cfg.recipe.sync_bn:
            model = synchronise_norms(model, self.device)
        self.settings.apply(model)
        self.jet: bool | str | None = None  # True: where it is faster, without AMX
        if jet.is_used(model):
            forced = self.settings.algorithm == "jet"
            where = "wherever possible" if forced else "where faster"
            self.chosen.append(f"jet form: {where}")
            different = [where] * forced + ["amx"] * has_amx_products()
            self.jet = ", ".join(different) or True
        self.model = model

    def list_network_conditions(self) -> dict[str, Any]:
        """What decides the rounding of this network here, and must be as it was to resume."""
        return {
            "machine": device_name(self.device),
            "torch": str(torch.__version__),  # a plain string, or the state would not load
            "compile": self.settings.compile,
            "channels_last": self.settings.channels_last,
            "jet": self.jet,
        }

    def describe_hardware(self) -> dict[str, Any]:
        """The fields of a record that say what computes."""
        return {
            "device": label_device(self.device),
            "precision": self.config["precision"],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "ranks": self.ranks.count,
        }

    def describe_data(self) -> dict[str, Any]:
        """The fields of a record that say which data these are."""
        data = self.data
        described = {"name": data.name, "provenance": data.provenance, "sha256": data.sha256}
        if data.class_names:
            described["class_names"] = list(data.class_names)
            described["image"] = list(data.train_images.shape[1:])
        return described
