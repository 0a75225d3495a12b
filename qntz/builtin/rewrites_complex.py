"""Fourier transforms and complex numbers in real arithmetic: no graph format has complex tensors, and TensorRT no DFT.

A transform of n points is a product with the n by n matrix of its cosines and sines, at most `LONGEST` points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from qntz.hookspecs import hookimpl
from qntz.records import Example, FunctionRewrite, ModuleRewrite

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qntz.builtin._complex import Pair

LONGEST = 4096  # points; the matrix grows with their square
NORMS = {None: 0.0, "backward": 0.0, "ortho": 0.5, "forward": 1.0}


@hookimpl
def qntz_function_rewrites() -> Iterable[FunctionRewrite]:
    import torch

    from qntz.builtin import _complex  # noqa: F401  keeps torch.complex for itself, before that is replaced

    yield FunctionRewrite(
        name="complex-arithmetic",
        functions={
            "torch.fft.fft": fft,
            "torch.fft.ifft": ifft,
            "torch.fft.rfft": rfft,
            "torch.fft.irfft": irfft,
            "torch.fft.fft2": fft2,
            "torch.fft.ifft2": ifft2,
            "torch.fft.rfft2": rfft2,
            "torch.fft.irfft2": irfft2,
            "torch.stft": stft,
            "torch.istft": istft,
            "torch.complex": as_pair,
            "torch.polar": polar,
            "torch.view_as_complex": view_as_complex,
        },
        tolerance=1e-5,
        examples=(
            Example(lambda x: torch.fft.rfft(x).abs()),
            Example(lambda x: torch.fft.irfft(torch.fft.rfft(x, norm="ortho") * 0.5, n=x.shape[-1], norm="ortho")),
            Example(lambda x: torch.fft.fft2(x).real),
            Example(lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:])),
            Example(
                lambda x: torch.stft(x, 16, 4, window=torch.hann_window(16), return_complex=True).abs(), shapes=LONG
            ),
            Example(there_and_back, shapes=LONG),
            Example(
                lambda x: torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn(x)), shapes=EVEN
            ),
        ),
    )
    yield FunctionRewrite(
        name="complex-zeros",
        functions={"torch.zeros": zeros, "torch.zeros_like": zeros_like},
        match=is_complex,
        examples=(Example(lambda x: low_pass(x), shapes=EVEN),),
    )


@hookimpl
def qntz_module_rewrites() -> Iterable[ModuleRewrite]:
    yield ModuleRewrite(
        name="complex-constants", match=holds_complex, apply=with_pairs, examples=(Example(module=rotary, shapes=EVEN),)
    )


LONG = (((2, 64),), ((3, 90),), ((1, 131),))
EVEN = (((2, 4, 6),), ((3, 7, 6),), ((1, 5, 6),))


def there_and_back(x: Tensor) -> Tensor:
    import torch

    window = torch.hann_window(16)
    return torch.istft(torch.stft(x, 16, 4, window=window, return_complex=True), 16, 4, window=window)


def turn(x: Tensor) -> Any:
    import torch

    angles = torch.arange(x.shape[-2])[:, None] * torch.tensor([1.0, 0.1, 0.01])
    return torch.polar(torch.ones_like(angles), angles)


def low_pass(x: Tensor) -> Tensor:
    import torch

    spectrum = torch.fft.rfft(x, dim=-1)
    kept = torch.zeros(x.shape[0], x.shape[1], 4, dtype=torch.complex64)
    kept[..., :2] = spectrum[..., :2]
    return torch.fft.irfft(kept, n=6)


def rotary() -> nn.Module:
    import torch
    from torch import nn

    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            angles = torch.outer(torch.arange(16.0), torch.tensor([1.0, 0.1, 0.01]))
            self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * self.turns[: x.shape[-2]]
            return torch.view_as_real(turned).flatten(-2)

    return Rotary()


def _turns(rows: Any, columns: Any, n: Any) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi rows columns / n: [rows, columns], of angles below one turn, which float32 has right."""
    import torch

    if not (torch.jit.is_tracing() or torch.compiler.is_compiling()) and n > LONGEST:
        raise NotImplementedError(f"a Fourier transform of {n} points, more than {LONGEST}")
    turns = (torch.arange(rows)[:, None] * torch.arange(columns)[None, :]) % n
    angles = turns.to(torch.float32) * (2 * math.pi / n)
    return torch.cos(angles), torch.sin(angles)


def _fitted(x: Tensor, n: Any, dim: int) -> tuple[Tensor, Any]:
    """With the dimension last, and cut or filled with zeros to n points; and n."""
    import torch

    x = x.transpose(dim, -1)
    if n is None:
        return x, x.shape[-1]
    return torch.nn.functional.pad(x, (0, n))[..., :n], n


def _scaled(z: Any, n: Any, power: float) -> Any:
    return z if power == 0 else z * (1.0 / n**power)


def rfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Pair:
    """torch.fft.rfft: [..., n] to [..., n // 2 + 1]."""
    from qntz.builtin._complex import Pair

    x, n = _fitted(input, n, dim)
    cos, sin = _turns(n, n // 2 + 1, n)
    return _scaled(Pair((x @ cos).transpose(-1, dim), -(x @ sin).transpose(-1, dim)), n, NORMS[norm])


def irfft(input: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """torch.fft.irfft: [..., n // 2 + 1] to [..., n]; each coefficient but the first and the middle counts twice."""
    import torch

    from qntz.builtin._complex import Pair, pair

    z = pair(input)
    z = z if isinstance(z, Pair) else Pair(z, torch.zeros_like(z))
    n = 2 * (z.shape[dim] - 1) if n is None else n
    count = n // 2 + 1
    real, _ = _fitted(z.real, count, dim)
    imag, _ = _fitted(z.imag, count, dim)
    cos, sin = _turns(count, n, n)
    index = torch.arange(count)
    weight = torch.where((index == 0) | (2 * index == n), 1.0, 2.0)
    result = (real * weight) @ cos - (imag * weight) @ sin
    return _scaled(result.transpose(-1, dim), n, 1 - NORMS[norm])


def fft(input: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Pair:
    """torch.fft.fft: [..., n], real or complex."""
    return _scaled(_full(input, n, dim, 1), _points(input, n, dim), NORMS[norm])


def ifft(input: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Pair:
    """torch.fft.ifft: [..., n], real or complex."""
    return _scaled(_full(input, n, dim, -1), _points(input, n, dim), 1 - NORMS[norm])


def _points(input: Any, n: int | None, dim: int) -> Any:
    return input.shape[dim] if n is None else n


def _full(input: Any, n: int | None, dim: int, sign: int) -> Pair:
    from qntz.builtin._complex import Pair, pair

    z = pair(input)
    real, points = _fitted(z.real if isinstance(z, Pair) else z, n, dim)
    cos, sin = _turns(points, points, points)
    a, b = real @ cos, -sign * (real @ sin)
    if isinstance(z, Pair):
        imag, _ = _fitted(z.imag, n, dim)
        a, b = a + sign * (imag @ sin), b + imag @ cos
    return Pair(a.transpose(-1, dim), b.transpose(-1, dim))


def _sizes(s: Any) -> tuple[Any, Any]:
    return (None, None) if s is None else tuple(s)


def fft2(input: Any, s: Any = None, dim: tuple[int, int] = (-2, -1), norm: str | None = None) -> Pair:
    """torch.fft.fft2."""
    rows, columns = _sizes(s)
    return fft(fft(input, columns, dim[1], norm), rows, dim[0], norm)


def ifft2(input: Any, s: Any = None, dim: tuple[int, int] = (-2, -1), norm: str | None = None) -> Pair:
    """torch.fft.ifft2."""
    rows, columns = _sizes(s)
    return ifft(ifft(input, columns, dim[1], norm), rows, dim[0], norm)


def rfft2(input: Tensor, s: Any = None, dim: tuple[int, int] = (-2, -1), norm: str | None = None) -> Pair:
    """torch.fft.rfft2: the last dimension in half."""
    rows, columns = _sizes(s)
    return fft(rfft(input, columns, dim[1], norm), rows, dim[0], norm)


def irfft2(input: Any, s: Any = None, dim: tuple[int, int] = (-2, -1), norm: str | None = None) -> Tensor:
    """torch.fft.irfft2: the last dimension from half."""
    rows, columns = _sizes(s)
    return irfft(ifft(input, rows, dim[0], norm), columns, dim[1], norm)


def _window(window: Tensor | None, win_length: int | None, n_fft: int) -> Tensor:
    """The window in the middle of n_fft points."""
    import torch

    length = n_fft if win_length is None else win_length
    window = torch.ones(length) if window is None else window
    before = (n_fft - length) // 2
    return torch.nn.functional.pad(window, (before, n_fft - length - before))


def stft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Any:
    """torch.stft of a real signal, [N, T] or [T]: a convolution with the cosines and sines under the window."""
    import torch
    from torch.nn import functional

    from qntz.builtin._complex import Pair

    if onesided is False or align_to_window:
        raise NotImplementedError("stft of two sides, or aligned to the window")
    x = input if input.dim() == 2 else input[None]
    if center:
        x = functional.pad(x[:, None], (n_fft // 2, n_fft // 2), mode=pad_mode)[:, 0]
    cos, sin = _turns(n_fft // 2 + 1, n_fft, n_fft)
    shape = _window(window, win_length, n_fft) * (n_fft**-0.5 if normalized else 1.0)
    kernels = torch.cat((cos * shape, -sin * shape))[:, None]
    both = functional.conv1d(x[:, None], kernels, stride=hop_length or n_fft // 4)
    real, imag = both[:, : n_fft // 2 + 1], both[:, n_fft // 2 + 1 :]
    if input.dim() == 1:
        real, imag = real[0], imag[0]
    return Pair(real, imag) if return_complex else torch.stack((real, imag), -1)


def istft(
    input: Any,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """torch.istft to a real signal: [N, n_fft // 2 + 1, frames] to [N, T]; the frames are added where they overlap, and
    divided by the windows that met there."""
    import torch
    from torch.nn import functional

    from qntz.builtin._complex import Pair, pair

    z = pair(input)
    if onesided is False or return_complex or not isinstance(z, Pair):
        raise NotImplementedError("istft of two sides, of a complex signal, or of real coefficients")
    real, imag = (z.real, z.imag) if z.ndim == 3 else (z.real[None], z.imag[None])
    hop, count = hop_length or n_fft // 4, n_fft // 2 + 1
    cos, sin = _turns(count, n_fft, n_fft)
    index = torch.arange(count)
    weight = torch.where((index == 0) | (2 * index == n_fft), 1.0, 2.0)[:, None] * (
        n_fft**-0.5 if normalized else 1.0 / n_fft
    )
    shape = _window(window, win_length, n_fft)
    kernels = torch.cat((cos * weight * shape, -sin * weight * shape))[:, None]
    signal = functional.conv_transpose1d(torch.cat((real, imag), 1), kernels, stride=hop)[:, 0]
    met = functional.conv_transpose1d(torch.ones_like(real[:1, :1]), (shape * shape)[None, None], stride=hop)[0]
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else (-start or None)
    result = signal[:, start:end] / met[:, start:end]
    return result if z.ndim == 3 else result[0]


def as_pair(real: Tensor, imag: Tensor) -> Pair:
    """torch.complex."""
    import torch

    from qntz.builtin._complex import Pair

    return Pair(real + torch.zeros_like(imag), imag + torch.zeros_like(real))


def polar(abs: Tensor, angle: Tensor) -> Pair:
    """torch.polar."""
    from qntz.builtin._complex import Pair

    return Pair(abs * angle.cos(), abs * angle.sin())


def view_as_complex(input: Tensor) -> Pair:
    """torch.view_as_complex of [..., 2]."""
    from qntz.builtin._complex import Pair

    return Pair(input[..., 0], input[..., 1])


def is_complex(*args: Any, dtype: Any = None, **kwargs: Any) -> bool:
    """Whether a tensor is made of a complex dtype."""
    return dtype is not None and dtype.is_complex


def zeros(*size: Any, dtype: Any = None, **kwargs: Any) -> Pair:
    """torch.zeros of a complex dtype."""
    import torch

    from qntz.builtin._complex import Pair

    real = dtype.to_real()
    return Pair(torch.zeros(*size, dtype=real, **kwargs), torch.zeros(*size, dtype=real, **kwargs))


def zeros_like(input: Any, *, dtype: Any = None, **kwargs: Any) -> Pair:
    """torch.zeros_like of a complex dtype."""
    return zeros(input.shape, dtype=dtype, **kwargs)


def holds_complex(module: nn.Module) -> bool:
    """A module with a complex parameter, buffer or attribute of its own."""
    return bool(_complex_names(module))


def _complex_names(module: nn.Module) -> list[str]:
    from torch import Tensor

    own = {**module._parameters, **module._buffers, **vars(module)}
    return [name for name, value in own.items() if isinstance(value, Tensor) and value.is_complex()]


def with_pairs(module: nn.Module) -> nn.Module:
    """A copy of the module, its complex tensors as pairs; they are constants of what is captured."""
    import copy

    from qntz.builtin._complex import Pair

    changed = copy.copy(module)
    for own in ("_parameters", "_buffers"):
        changed.__dict__[own] = dict(changed.__dict__[own])
    for name in _complex_names(module):
        value = getattr(module, name).detach().resolve_conj()
        changed._parameters.pop(name, None)
        changed._buffers.pop(name, None)
        changed.__dict__[name] = Pair(value.real.clone(), value.imag.clone())
    return changed
