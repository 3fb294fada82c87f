"""What the methods share: the error of a linear layer in terms of the Gram matrix of its inputs, and its inverse.

With inputs x_t (T rows of K columns), gram = X^T X and y = W x, a change D of W changes the outputs by

    sum_t ||D x_t||^2 = tr(D gram D^T) = sum over the rows d of D of d gram d^T

so that neither inputs nor outputs need to be kept. Everything is computed in float64.
"""

from __future__ import annotations

import numpy as np

from pyengine.errors import OptionError

__all__ = ["fit_support", "inverse_factor", "ridge_step", "row_errors"]

_TRIES = 8  # each with ten times the damping
_ROWS = 1024  # fitted together
_CONVERGED, _ITERATIONS = 1e-3, 200  # of the gradient's length; rows take 25 to 60


def row_errors(difference: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """d gram d^T of each row d of ``difference`` [N, K]: float64 [N], not negative."""
    difference = difference.astype(np.float64, copy=False)
    errors: np.ndarray = np.maximum(np.einsum("nk,nk->n", difference @ gram, difference), 0.0)
    return errors


def inverse_factor(gram: np.ndarray, damping: float) -> np.ndarray:
    """U upper triangular, float64 [K, K], with U^T U = (gram + lambda I)^-1.

    lambda is ``damping`` times the mean of the diagonal, and ten times as much for as long as the factorization
    fails. Raises OptionError for a gram that is not square or not finite, or that no damping repairs.
    """
    from scipy.linalg import lapack  # scipy takes as long to import as all of this package: only where it is needed

    # H = R R^T with R upper triangular is the Cholesky factorization of H with rows and columns reversed; then
    # H^-1 = R^-T R^-1. One factorization and one triangular inverse, and H^-1 itself is never rounded.
    reversed_gram = _checked(gram)[::-1, ::-1]
    for strength in _strengths(gram, damping):
        factor, failed = lapack.dpotrf(reversed_gram + strength * np.eye(len(gram)), lower=1, clean=1)
        if not failed:
            inverse, failed = lapack.dtrtri(factor, lower=1)
        if not failed and np.isfinite(inverse).all():
            return np.ascontiguousarray(inverse[::-1, ::-1])
    raise _not_positive(strength)


def ridge_step(residual: np.ndarray, gram: np.ndarray, ridge: float) -> np.ndarray:
    """residual (gram + lambda I)^-1, float64 [N, K]: how W changes in a least squares fit with a ridge towards W.

    ``residual`` [N, K] is cross - W gram, where cross = Y^T X of the outputs wanted. W + step minimises
    ||Y - X V^T||^2 + lambda ||V - W||^2 over V, hence never has a larger error than W, whatever lambda is.
    lambda and the errors raised are as in ``inverse_factor``.
    """
    from scipy.linalg import cho_factor, cho_solve

    for strength in _strengths(_checked(gram), ridge):
        try:
            factor = cho_factor(gram + strength * np.eye(len(gram)), overwrite_a=True)
        except np.linalg.LinAlgError:
            continue
        step = cho_solve(factor, residual.T.astype(np.float64)).T
        if np.isfinite(step).all():
            return step
    raise _not_positive(strength)


def fit_support(residual: np.ndarray, gram: np.ndarray, keep: np.ndarray, ridge: float) -> np.ndarray:
    """``ridge_step`` for each row over the columns that it keeps, zero elsewhere: float64 [N, K].

    ``keep`` is bool [N, K]. By conjugate gradients (Hestenes and Stiefel, 1952), scaled by the diagonal, of many rows
    at once: a product with ``gram`` an iteration in place of a factorization a row. What ``ridge_step`` minimises
    falls with each; a row ends where its gradient is a thousandth of what it was. Errors as in ``ridge_step``.
    """
    parts = [slice(start, start + _ROWS) for start in range(0, len(residual), _ROWS)]
    for strength in _strengths(_checked(gram), ridge):
        steps = np.zeros(residual.shape)
        if all(_descend(steps[rows], residual[rows], gram, keep[rows], strength) for rows in parts):
            return steps
    raise _not_positive(strength)


def _descend(
    steps: np.ndarray, residual: np.ndarray, gram: np.ndarray, keep: np.ndarray, strength: float
) -> bool:
    """Write the steps of some rows into ``steps`` [n, K], zeros; False if ``strength`` leaves ``gram`` indefinite."""
    diagonal = np.diagonal(gram) + strength
    if not (diagonal > 0).all():
        return False
    scale = 1.0 / diagonal
    gradient = np.where(keep, residual, 0.0)
    direction = gradient * scale
    size = np.einsum("nk,nk->n", gradient, direction)
    rows, enough = np.arange(len(steps)), _CONVERGED**2 * size
    for _ in range(_ITERATIONS):
        going = size > enough
        if not going.any():
            break
        if not going.all():
            parts = (rows, enough, size, gradient, direction, keep)
            rows, enough, size, gradient, direction, keep = (part[going] for part in parts)
        product = np.where(keep, direction @ gram + strength * direction, 0.0)
        curvature = np.einsum("nk,nk->n", direction, product)
        if not (curvature > 0).all():
            return False
        length = (size / curvature)[:, None]
        steps[rows] += length * direction
        gradient = gradient - length * product
        scaled = gradient * scale
        before, size = size, np.einsum("nk,nk->n", gradient, scaled)
        direction = scaled + (size / before)[:, None] * direction
    return True


def _checked(gram: np.ndarray) -> np.ndarray:
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise OptionError(f"gram: expected a square matrix, found shape {list(gram.shape)}")
    if not np.isfinite(gram).all():
        raise OptionError("gram: expected finite numbers, found inf or nan")
    return gram


def _strengths(gram: np.ndarray, damping: float) -> list[float]:
    if not damping > 0:
        raise OptionError(f"damping: expected a positive number, found {damping}")
    # Inputs that are all zero leave any positive number as good as another.
    mean = float(np.trace(gram)) / max(1, len(gram)) or 1.0
    return [damping * 10.0**i * mean for i in range(_TRIES)]


def _not_positive(strength: float) -> OptionError:
    return OptionError(f"gram: expected a positive semidefinite matrix, found none with {strength:.3g} on the diagonal")
