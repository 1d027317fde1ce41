"""Weights & Biases: what a run logs there, and how it is read back. Nothing else imports wandb.

``write`` has the :class:`~pdoe.tracking.write.Tracker`, ``start`` how a run begins, ``media`` its
tables and pictures, ``names`` the names of metrics, ``service`` W&B's own process; ``read``
and ``starts`` are the way back.
"""
