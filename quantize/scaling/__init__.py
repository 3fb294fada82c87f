"""Scales of channels, moved between what gives them and what reads them."""
