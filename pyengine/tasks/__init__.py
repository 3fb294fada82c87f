"""Text in, text out: what most users of the package call."""
