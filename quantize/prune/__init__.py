"""Pruning: which weights, neurons, heads and layers to remove, and how the rest makes up for them.

``model.prune_model`` prunes a model, with ``teacher``; all else is pure functions of arrays. W is float32 [N, K] with
y = W x; ``gram`` is X^T X, float64 [K, K], of calibration inputs, ``mean`` [K] their mean and ``count`` their number.
"""
