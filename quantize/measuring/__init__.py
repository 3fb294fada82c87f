"""What a change costs: errors of layers, distances of models, bytes and time."""
