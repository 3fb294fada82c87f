"""Searches: which candidates are kept."""
