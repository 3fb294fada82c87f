"""Oracles: NumPy forward passes that are meant to be read, and comparisons with transformers."""
