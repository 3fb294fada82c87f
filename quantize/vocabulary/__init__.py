"""Tokens: which are used, which can go, and which translate which."""
