"""Weights & Biases: what a run logs there, and what is read back."""
