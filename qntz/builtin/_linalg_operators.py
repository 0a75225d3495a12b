"""torch's operators for matrix functions, with their arguments, on top of `_linalg`, and an example or two of each."""

from collections.abc import Callable
from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from qntz.builtin._linalg import cholesky, eigen, eliminated, exponential, orthogonal, singular


def inverse(A: Tensor) -> Tensor:
    identity = torch.eye(A.size(-1), dtype=A.dtype, device=A.device)
    return eliminated(A, torch.zeros_like(A) + identity)[0]


def solve(A: Tensor, B: Tensor, left: bool) -> Tensor:
    if not left:
        return eliminated(A.transpose(-1, -2), B.transpose(-1, -2))[0].transpose(-1, -2)
    if B.dim() == A.dim() - 1:
        return eliminated(A, B.unsqueeze(-1))[0].squeeze(-1)
    return eliminated(A, B)[0]


def lower_triangle(A: Tensor, upper: bool) -> Tensor:
    lower = cholesky(A.transpose(-1, -2) if upper else A)
    return lower.transpose(-1, -2) if upper else lower


def solve_by_cholesky(B: Tensor, factor: Tensor, upper: bool) -> Tensor:
    """By a triangle at a time: their product would have the square of their condition number."""
    factor = factor.triu() if upper else factor.tril()
    turned = factor.transpose(-1, -2)
    first, second = (turned, factor) if upper else (factor, turned)
    return eliminated(second, eliminated(first, B)[0])[0]


def inverse_by_cholesky(factor: Tensor, upper: bool) -> Tensor:
    identity = torch.eye(factor.size(-1), dtype=factor.dtype, device=factor.device)
    return solve_by_cholesky(torch.zeros_like(factor) + identity, factor, upper)


def solve_triangular(A: Tensor, B: Tensor, upper: bool, left: bool, unitriangular: bool) -> Tensor:
    A = A.triu() if upper else A.tril()
    if unitriangular:
        identity = torch.eye(A.size(-1), dtype=A.dtype, device=A.device)
        A = A - A * identity + identity
    if left:
        return eliminated(A, B)[0]
    return eliminated(A.transpose(-1, -2), B.transpose(-1, -2))[0].transpose(-1, -2)


def sign_and_log(A: Tensor) -> Tuple[Tensor, Tensor]:
    _, sign, log = eliminated(A, A.narrow(-1, 0, 0))
    return sign, log


def symmetric(A: Tensor, UPLO: str) -> Tensor:
    part = A.tril() if UPLO == "L" or UPLO == "l" else A.triu()
    identity = torch.eye(A.size(-1), dtype=A.dtype, device=A.device)
    return part + part.transpose(-1, -2) - part * identity


def pseudo_inverse(A: Tensor, atol: float, rtol: float) -> Tensor:
    """rtol: negative for torch's own, by the dtype and the larger size."""
    u, s, v = singular(A)
    largest = s.select(-1, 0).unsqueeze(-1)
    is_double = torch.ones_like(largest) + 1e-10 > 1
    epsilon = torch.where(is_double, torch.full_like(largest, 2.22e-16), torch.full_like(largest, 1.1920929e-07))
    relative = epsilon * max(A.size(-1), A.size(-2)) if rtol < 0 else torch.full_like(largest, rtol)
    kept = s > torch.maximum(relative * largest, torch.full_like(largest, atol))
    turned = torch.where(kept, 1 / torch.where(kept, s, torch.ones_like(s)), torch.zeros_like(s))
    return (v * turned.unsqueeze(-2)) @ u.transpose(-1, -2)


def pinv(A: Tensor, atol: Optional[float], rtol: Optional[float], hermitian: bool) -> Tensor:
    A = symmetric(A, "L") if hermitian else A
    absolute = 0.0 if atol is None else atol
    own = -1.0 if absolute == 0.0 else 0.0
    return pseudo_inverse(A, absolute, own if rtol is None else rtol)


def pinverse(A: Tensor, rcond: float) -> Tensor:
    return pseudo_inverse(A, 0.0, rcond)


def pinv_of_rcond(A: Tensor, rcond: float, hermitian: bool) -> Tensor:
    return pseudo_inverse(symmetric(A, "L") if hermitian else A, 0.0, rcond)


def matrix_exp(A: Tensor) -> Tensor:
    return exponential(A)


def matrix_power(A: Tensor, n: int) -> Tensor:
    result = torch.zeros_like(A) + torch.eye(A.size(-1), dtype=A.dtype, device=A.device)
    base = inverse(A) if n < 0 else A
    for _ in range(abs(n)):
        result = result @ base
    return result


def eigh(A: Tensor, UPLO: str) -> Tuple[Tensor, Tensor]:
    return eigen(symmetric(A, UPLO))


def eigvalsh(A: Tensor, UPLO: str) -> Tensor:
    return eigen(symmetric(A, UPLO))[0]


def svd(A: Tensor, full_matrices: bool, driver: Optional[str]) -> Tuple[Tensor, Tensor, Tensor]:
    """As many columns as the smaller size, also where `full_matrices` asks for more, but of square matrices."""
    u, s, v = singular(A)
    return u, s, v.transpose(-1, -2)


def old_svd(A: Tensor, some: bool, compute_uv: bool) -> Tuple[Tensor, Tensor, Tensor]:
    assert some, "svd with full matrices"
    assert compute_uv, "svd without vectors"
    return singular(A)


def svdvals(A: Tensor, driver: Optional[str]) -> Tensor:
    return singular(A)[1]


def qr(A: Tensor, mode: str) -> Tuple[Tensor, Tensor]:
    """Of a matrix that is at least as high as wide."""
    assert mode == "reduced", "qr in another mode than reduced"
    return orthogonal(A)


def old_qr(A: Tensor, some: bool) -> Tuple[Tensor, Tensor]:
    assert some, "qr that is not reduced"
    return orthogonal(A)


def positive(x: Tensor) -> Tensor:
    """[..., 4, 4], symmetric and positive definite."""
    return x @ x.transpose(-1, -2) + 0.5 * torch.eye(4)


def square(x: Tensor) -> Tensor:
    return x[..., :4] + 2 * torch.eye(4)


def rebuilt(x: Tensor) -> Tensor:
    """By what the signs of the vectors do not change."""
    values, vectors = torch.linalg.eigh(x)
    return vectors @ torch.diag_embed(values.clamp(min=0.1).rsqrt()) @ vectors.transpose(-1, -2)


def rotation(x: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(x)
    return u @ vh


def product(parts: Tuple[Tensor, Tensor, Tensor]) -> Tensor:
    u, s, v = parts
    return u @ torch.diag_embed(s.sqrt()) @ v


OPERATORS: dict[str, tuple[Callable[..., Any], ...]] = {
    "linalg_inv": (inverse, lambda x: torch.linalg.inv(square(x))),
    "linalg_solve": (
        solve,
        lambda x: torch.linalg.solve(square(x), x),
        lambda x: torch.linalg.solve(square(x), x[..., 0]),
        lambda x: torch.linalg.solve(square(x), x.transpose(-1, -2), left=False),
    ),
    "linalg_cholesky": (
        lower_triangle,
        lambda x: torch.linalg.cholesky(positive(x)),
        lambda x: torch.linalg.cholesky(positive(x), upper=True),
    ),
    "cholesky": (lower_triangle, lambda x: torch.cholesky(positive(x))),
    "cholesky_solve": (
        solve_by_cholesky,
        lambda x: torch.cholesky_solve(x, square(x)),
        lambda x: torch.cholesky_solve(x, square(x), upper=True),
    ),
    "cholesky_inverse": (
        inverse_by_cholesky,
        lambda x: torch.cholesky_inverse(square(x).tril()),
        lambda x: torch.cholesky_inverse(square(x).triu(), upper=True),
    ),
    "linalg_solve_triangular": (
        solve_triangular,
        lambda x: torch.linalg.solve_triangular(square(x), x, upper=True),
        lambda x: torch.linalg.solve_triangular(square(x), x, upper=False, unitriangular=True),
        lambda x: torch.linalg.solve_triangular(square(x), x.transpose(-1, -2), upper=True, left=False),
    ),
    "linalg_slogdet": (
        sign_and_log,
        lambda x: sum(torch.linalg.slogdet(square(x))),
        lambda x: torch.linalg.slogdet(square(x) * 0)[0],
    ),
    "slogdet": (sign_and_log, lambda x: sum(torch.slogdet(square(x)))),
    "linalg_pinv.atol_rtol_float": (
        pinv,
        lambda x: torch.linalg.pinv(x),
        lambda x: torch.linalg.pinv(x.transpose(-1, -2)),
        lambda x: torch.linalg.pinv(x, atol=1.5),
        lambda x: torch.linalg.pinv(square(x) * 2, hermitian=True),
        lambda x: torch.linalg.pinv(x.double(), rtol=0.4),
    ),
    "linalg_pinv": (pinv_of_rcond, lambda x: torch.linalg.pinv(x, 1e-6)),
    "pinverse": (pinverse, lambda x: torch.pinverse(x)),
    "linalg_matrix_exp": (
        matrix_exp,
        lambda x: torch.linalg.matrix_exp(x[..., :4]),
        lambda x: torch.linalg.matrix_exp(x[..., :4] * 3),
    ),
    "linalg_matrix_power": (
        matrix_power,
        lambda x: torch.linalg.matrix_power(square(x), 3),
        lambda x: torch.linalg.matrix_power(square(x), -2),
    ),
    "linalg_eigh": (eigh, lambda x: rebuilt(positive(x)), lambda x: torch.linalg.eigh(positive(x))[0]),
    "linalg_eigvalsh": (eigvalsh, lambda x: torch.linalg.eigvalsh(positive(x) - 3 * torch.eye(4))),
    "linalg_svd": (
        svd,
        lambda x: rotation(square(x)),
        lambda x: product(torch.linalg.svd(x, full_matrices=False)),
        lambda x: torch.linalg.svd(x, full_matrices=False)[1],
    ),
    "svd": (old_svd, lambda x: torch.svd(x)[1]),
    "linalg_svdvals": (svdvals, lambda x: torch.linalg.svdvals(x)),
    "linalg_qr": (
        qr,
        lambda x: torch.linalg.qr(square(x))[0],
        lambda x: torch.linalg.qr(x.transpose(-1, -2))[1],
        lambda x: torch.linalg.qr(square(x).triu())[1],
    ),
    "qr": (old_qr, lambda x: torch.qr(square(x))[1]),
}
"""By the operator's name and overload the function that takes its place, and what it is tested on: x [..., 4, n]."""
