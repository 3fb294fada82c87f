"""Text, and what the layers of a model read when it runs on it."""
