"""From float32 weights to codes: schemes, ranges, and ways to round, with and without what layers read."""
