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
        row = row / pivot.unsqueeze(-1)
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


def eigen(a: Tensor, sweeps: int = 10) -> tuple[Tensor, Tensor]:
    """Eigenvalues in ascending order and eigenvectors as columns, of any sign, of a symmetric matrix, [..., n, n].

    sweeps: of Jacobi's rotations over all pairs; they converge quadratically.
    """
    n = a.size(-1)
    places = torch.arange(n, device=a.device)
    one = (places.unsqueeze(-1) == places).to(a.dtype)
    vectors = torch.zeros_like(a) + one
    for turn in range(sweeps * n * n):
        p = (turn // n) % n
        q = turn % n
        along = a.select(-1, p)
        app = along.select(-1, p)
        apq = along.select(-1, q)
        aqq = a.select(-1, q).select(-1, q)
        flat = (apq == 0) | (torch.zeros_like(apq) + float(q) <= float(p))
        theta = (aqq - app) / torch.where(flat, torch.ones_like(apq), 2 * apq)
        turned = torch.where(theta >= 0, torch.ones_like(theta), -torch.ones_like(theta))
        tangent = turned / (theta.abs() + (theta * theta + 1).sqrt())
        tangent = torch.where(flat, torch.zeros_like(tangent), tangent)
        c = 1 / (tangent * tangent + 1).sqrt()
        s = tangent * c
        c = c.unsqueeze(-1).unsqueeze(-1)
        s = s.unsqueeze(-1).unsqueeze(-1)
        at_p = (places == p).to(a.dtype)
        at_q = (places == q).to(a.dtype)
        corner = at_p.unsqueeze(-1) * at_p + at_q.unsqueeze(-1) * at_q
        skew = at_p.unsqueeze(-1) * at_q - at_q.unsqueeze(-1) * at_p
        rotation = one + (c - 1) * corner + s * skew
        a = rotation.transpose(-1, -2) @ a @ rotation
        vectors = vectors @ rotation
    values = (a * one).sum(-1)
    values, order = values.sort(-1)
    return values, torch.gather(vectors, -1, order.unsqueeze(-2).expand(vectors.size()))


def singular(a: Tensor, sweeps: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """u [..., m, k], s [..., k] in descending order and v [..., n, k], u and v of any sign, with a = u diag(s) v^T.

    a: [..., m, n], of which k is the smaller: the columns beyond it are turned to zero. sweeps: as `eigen` has them.
    """
    n = a.size(-1)
    places = torch.arange(n, device=a.device)
    one = (places.unsqueeze(-1) == places).to(a.dtype)
    vectors = torch.zeros_like(a.transpose(-1, -2) @ a) + one
    for turn in range(sweeps * n * n):
        p = (turn // n) % n
        q = turn % n
        first = a.select(-1, p)
        second = a.select(-1, q)
        product = (first * second).sum(-1)
        flat = (product == 0) | (torch.zeros_like(product) + float(q) <= float(p))
        difference = (second * second).sum(-1) - (first * first).sum(-1)
        theta = difference / torch.where(flat, torch.ones_like(product), 2 * product)
        turned = torch.where(theta >= 0, torch.ones_like(theta), -torch.ones_like(theta))
        tangent = turned / (theta.abs() + (theta * theta + 1).sqrt())
        tangent = torch.where(flat, torch.zeros_like(tangent), tangent)
        c = 1 / (tangent * tangent + 1).sqrt()
        s = tangent * c
        c = c.unsqueeze(-1).unsqueeze(-1)
        s = s.unsqueeze(-1).unsqueeze(-1)
        at_p = (places == p).to(a.dtype)
        at_q = (places == q).to(a.dtype)
        corner = at_p.unsqueeze(-1) * at_p + at_q.unsqueeze(-1) * at_q
        skew = at_p.unsqueeze(-1) * at_q - at_q.unsqueeze(-1) * at_p
        rotation = one + (c - 1) * corner + s * skew
        a = a @ rotation
        vectors = vectors @ rotation
    values = (a * a).sum(-2).sqrt()
    values, order = values.sort(-1, descending=True)
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
        last = torch.zeros_like(head) + float(k + 1) >= float(m)
        mirror = below + torch.where(rows == k, turned * length, torch.zeros_like(below))
        scale = (mirror * mirror).sum(-1, keepdim=True)
        idle = last | (scale == 0)
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
