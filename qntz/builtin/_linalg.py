"""Matrix functions in elementary operators, as torch.jit.script takes them: their loops stay loops, for matrices of any
size, and nothing is written in place.

Algorithms: Golub and Van Loan, Matrix Computations, 4th edition: elimination with partial pivoting (3.4), outer-product
Cholesky (4.2), Householder QR (5.2), Jacobi's eigenvalues (8.5), one-sided Jacobi (8.6), scaling and squaring (9.3).
All matrices are [..., n, m].
"""

import torch
from torch import Tensor


def eliminated(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The solution x of a x = b, and of a's determinant the sign and the logarithm of its magnitude.

    a: [..., n, n]. b: [..., n, m]. Returns [..., n, m], [...] and [...].
    """
    n = a.size(-1)
    rows = torch.arange(n, device=a.device)
    both = torch.cat([a, b], dim=-1)
    sign = torch.ones_like(a.sum(-1).sum(-1))
    log = torch.zeros_like(sign)
    for k in range(n):
        column = both.select(-1, k)
        magnitude = torch.where(rows >= k, column.abs(), torch.full_like(column, -1.0))
        pivot_row = magnitude.argmax(-1, keepdim=True)
        order = torch.where(rows == k, pivot_row, torch.where(rows == pivot_row, torch.full_like(rows, k), rows))
        both = torch.gather(both, -2, order.unsqueeze(-1).expand(both.size()))
        row = both.select(-2, k).unsqueeze(-2)
        pivot = row.select(-1, k)
        log = log + pivot.abs().log().squeeze(-1)
        swapped = torch.where(pivot_row == k, torch.ones_like(pivot), -torch.ones_like(pivot))
        sign = sign * (pivot.sign() * swapped).squeeze(-1)
        row = row / torch.where(pivot == 0, torch.ones_like(pivot), pivot).unsqueeze(-1)
        rest = both - both.select(-1, k).unsqueeze(-1) * row
        both = torch.where((rows == k).unsqueeze(-1), row, rest)
    return both.narrow(-1, n, b.size(-1)), sign, log


def cholesky(a: Tensor) -> Tensor:
    """The lower triangle l with l l^T = a. a: [..., n, n], positive definite, of which the lower part is read."""
    n = a.size(-1)
    rows = torch.arange(n, device=a.device)
    lower = torch.zeros_like(a)
    for k in range(n):
        left = a.select(-1, k) - (lower * lower.select(-2, k).unsqueeze(-2)).sum(-1)
        column = left / left.select(-1, k).sqrt().unsqueeze(-1)
        column = torch.where(rows >= k, column, torch.zeros_like(column))
        lower = torch.where(rows == k, column.unsqueeze(-1), lower)
    return lower


def rotation(first: Tensor, second: Tensor, product: Tensor, p: int, q: int, n: int) -> Tensor:
    """The rotation of the columns p and q, [..., n, n], that takes away what they have in common.

    first, second, product: of both columns the squares and their product (or a_pp, a_qq and a_pq), [...].
    """
    places = torch.arange(n, device=product.device)
    one = (places.unsqueeze(-1) == places).to(product.dtype)
    flat = product == 0
    theta = (second - first) / torch.where(flat, torch.ones_like(product), 2 * product)
    turned = torch.where(theta >= 0, torch.ones_like(theta), -torch.ones_like(theta))
    tangent = turned / (theta.abs() + (theta * theta + 1).sqrt())
    tangent = torch.where(flat, torch.zeros_like(tangent), tangent)
    cosine = 1 / (tangent * tangent + 1).sqrt()
    sine = (tangent * cosine).unsqueeze(-1).unsqueeze(-1)
    at_p = (places == p).to(product.dtype)
    at_q = (places == q).to(product.dtype)
    corner = at_p.unsqueeze(-1) * at_p + at_q.unsqueeze(-1) * at_q
    skew = at_p.unsqueeze(-1) * at_q - at_q.unsqueeze(-1) * at_p
    return one + (cosine.unsqueeze(-1).unsqueeze(-1) - 1) * corner + sine * skew


def eigen(a: Tensor, sweeps: int = 10) -> tuple[Tensor, Tensor]:
    """Eigenvalues in ascending order and eigenvectors as columns, of any sign, of a symmetric matrix, [..., n, n].

    sweeps: of Jacobi's rotations over all pairs; they converge quadratically.
    """
    n = a.size(-1)
    places = torch.arange(n, device=a.device)
    one = (places.unsqueeze(-1) == places).to(a.dtype)
    vectors = torch.zeros_like(a) + one
    for _ in range(sweeps):
        for p in range(n - 1):
            for q in range(p + 1, n):
                column = a.select(-1, p)
                corner = a.select(-1, q).select(-1, q)
                turn = rotation(column.select(-1, p), corner, column.select(-1, q), p, q, n)
                a = turn.transpose(-1, -2) @ a @ turn
                vectors = vectors @ turn
    values, order = (a * one).sum(-1).sort(-1)
    return values, torch.gather(vectors, -1, order.unsqueeze(-2).expand(vectors.size()))


def singular(a: Tensor, sweeps: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """u [..., m, k], s [..., k] in descending order and v [..., n, k], u and v of any sign, with a = u diag(s) v^T.
    Columns of u that belong to a singular value of exactly zero are zero.

    a: [..., m, n], of which k is the smaller: the columns beyond it are turned to zero. sweeps: as `eigen` has them.
    """
    n = a.size(-1)
    places = torch.arange(n, device=a.device)
    vectors = torch.zeros_like(a.transpose(-1, -2) @ a) + (places.unsqueeze(-1) == places).to(a.dtype)
    for _ in range(sweeps):
        for p in range(n - 1):
            for q in range(p + 1, n):
                one = a.select(-1, p)
                other = a.select(-1, q)
                turn = rotation((one * one).sum(-1), (other * other).sum(-1), (one * other).sum(-1), p, q, n)
                a = a @ turn
                vectors = vectors @ turn
    values, order = (a * a).sum(-2).sqrt().sort(-1, descending=True)
    a = torch.gather(a, -1, order.unsqueeze(-2).expand(a.size()))
    vectors = torch.gather(vectors, -1, order.unsqueeze(-2).expand(vectors.size()))
    count = min(a.size(-2), n)
    values = values.narrow(-1, 0, count)
    left = a.narrow(-1, 0, count) / values.unsqueeze(-2).clamp(min=1e-30)
    return left, values, vectors.narrow(-1, 0, count)


def orthogonal(a: Tensor) -> tuple[Tensor, Tensor]:
    """q [..., m, n] with orthonormal columns and r [..., n, n], upper triangular, with a = q r and LAPACK's signs.

    a: [..., m, n], m >= n.
    """
    m = a.size(-2)
    n = a.size(-1)
    rows = torch.arange(m, device=a.device)
    one = (rows.unsqueeze(-1) == rows).to(a.dtype)
    q = torch.zeros_like(a @ a.transpose(-1, -2)) + one
    for k in range(n):
        column = a.select(-1, k)
        below = torch.where(rows >= k, column, torch.zeros_like(column))
        head = column.select(-1, k).unsqueeze(-1)
        length = (below * below).sum(-1, keepdim=True).sqrt()
        turned = torch.where(head >= 0, torch.ones_like(head), -torch.ones_like(head))
        tail = torch.where(rows > k, column, torch.zeros_like(column))
        mirror = below + torch.where(rows == k, turned * length, torch.zeros_like(below))
        scale = (mirror * mirror).sum(-1, keepdim=True)
        idle = (tail * tail).sum(-1, keepdim=True) == 0  # as LAPACK has it, whatever the sign of the head
        factor = torch.where(idle, torch.zeros_like(scale), 2 / torch.where(idle, torch.ones_like(scale), scale))
        mirror = mirror.unsqueeze(-1)
        factor = factor.unsqueeze(-1)
        a = a - factor * (mirror @ (mirror.transpose(-1, -2) @ a))
        q = q - factor * ((q @ mirror) @ mirror.transpose(-1, -2))
    return q.narrow(-1, 0, n), a.narrow(-2, 0, n).triu()


def exponential(a: Tensor, terms: int = 12) -> Tensor:
    """e to the power of a matrix, [..., n, n], by its series, of a matrix halved to a norm of at most a half."""
    places = torch.arange(a.size(-1), device=a.device)
    norm = a.abs().sum(-2).amax()
    turns = (norm.clamp(min=1e-6) * 2).log2().ceil().clamp(min=0)
    a = a / torch.pow(torch.full_like(turns, 2.0), turns)
    result = torch.zeros_like(a) + (places.unsqueeze(-1) == places).to(a.dtype)
    term = result
    for number in range(terms):
        term = term @ a / (torch.zeros_like(norm) + (number + 1))
        result = result + term
    for _ in range(int(turns)):
        result = result @ result
    return result
