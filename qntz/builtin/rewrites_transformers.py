"""Parts of transformers' models whose Python decides by sizes, written so that a trace holds at every size.

They are in force only where the model has imported them, and each is held to what the original returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from qntz.hookspecs import hookimpl
from qntz.records import Example, FunctionRewrite

if TYPE_CHECKING:
    from torch import Tensor, nn

MOBILENETS = ("mobilenet_v1", "mobilenet_v2")
SWIN = "transformers.models.swin.modeling_swin"


@hookimpl
def qntz_function_rewrites() -> Iterable[FunctionRewrite]:
    yield FunctionRewrite(
        name="mobilenet-padding",
        functions={f"transformers.models.{one}.modeling_{one}.apply_tf_padding": same_padding for one in MOBILENETS},
        tolerance=0.0,
        requires=("transformers>=4.48",),
        examples=(Example(module=mobilenet, shapes=IMAGES),),
    )
    yield FunctionRewrite(
        name="swin-of-any-size",
        functions={
            f"{SWIN}.SwinPatchEmbeddings.maybe_pad": pad_to_patches,
            f"{SWIN}.SwinPatchMerging.maybe_pad": pad_to_even,
            f"{SWIN}.SwinLayer.maybe_pad": pad_to_windows,
            f"{SWIN}.SwinLayer.set_shift_and_window_size": shift_where_windows_differ,
            f"{SWIN}.SwinLayer.cyclic_shift": shifted,
        },
        tolerance=0.0,
        requires=("transformers>=5",),
        examples=(Example(module=swin, shapes=IMAGES),),
    )


IMAGES = (((2, 3, 32, 32),), ((3, 3, 40, 36),), ((1, 3, 16, 47),))


def mobilenet() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2Model

    return MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.25))


def swin() -> nn.Module:
    from transformers import SwinConfig, SwinModel

    sizes: dict[str, Any] = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2]}
    return SwinModel(SwinConfig(image_size=32, patch_size=2, window_size=4, **sizes))


def same_padding(features: Tensor, conv_layer: nn.Conv2d) -> Tensor:
    """TensorFlow's "SAME": as many outputs as inputs over the stride, rounded up. [N, C, H, W]."""
    import torch

    padding: list[Any] = []
    for axis in (1, 0):  # the last dimension first, as pad has it
        size, stride = features.shape[axis - 2], conv_layer.stride[axis]
        kernel, dilation = conv_layer.kernel_size[axis], conv_layer.dilation[axis]
        along = kernel - 1 - ((size - 1) % stride if stride > 1 else 0)
        if stride > kernel:
            along = (along + abs(along)) // 2  # none below 0
        padding += [along // 2 * dilation, (along - along // 2) * dilation]
    return torch.nn.functional.pad(features, tuple(padding), "constant", 0.0)


def pad_to_patches(self: Any, pixel_values: Tensor, height: Any, width: Any) -> Tensor:
    """[N, C, H, W] filled with zeros to whole patches."""
    import torch

    rows, columns = self.patch_size
    return torch.nn.functional.pad(pixel_values, (0, -width % columns, 0, -height % rows))


def pad_to_even(self: Any, input_feature: Tensor, height: Any, width: Any) -> Tensor:
    """[N, H, W, C] filled with zeros to even sizes."""
    import torch

    return torch.nn.functional.pad(input_feature, (0, 0, 0, width % 2, 0, height % 2))


class Padded:
    """How much was filled in, which says of itself that it is some: what is then cut off again may be nothing."""

    def __init__(self, size: Any) -> None:
        self.size = size

    def __gt__(self, other: Any) -> bool:
        return True

    def as_tensor(self) -> Tensor:
        """The size."""
        import torch

        return torch.as_tensor(self.size)


def pad_to_windows(self: Any, hidden_states: Tensor, height: Any, width: Any) -> tuple[Tensor, tuple[Any, ...]]:
    """[N, H, W, C] filled with zeros to whole windows."""
    import torch

    window = self.window_size
    right, bottom = -width % window, -height % window
    padded = torch.nn.functional.pad(hidden_states, (0, 0, 0, right, 0, bottom))
    return padded, (0, 0, 0, Padded(right), 0, Padded(bottom))


def shift_where_windows_differ(self: Any, input_resolution: tuple[Any, Any]) -> None:
    """No shift where one window covers a side; a side that is smaller than a window has another window in eager."""
    configured = self.__dict__.setdefault("qntz_shift_size", self.shift_size)
    if configured == 0:
        return
    height, width = input_resolution
    window = self.window_size
    if min(height, width) < window:
        raise NotImplementedError("a feature map that is smaller than a window")
    larger = (height > window) * (width > window)  # no `and`, which decides
    self.shift_size = configured * larger


def shifted(self: Any, hidden_states: Tensor, reverse: bool = False) -> Tensor:
    """[N, H, W, C] rolled along both sides by indices, which a trace computes."""
    import torch

    shift = self.shift_size if not reverse else -self.shift_size
    if isinstance(shift, int) and shift == 0:
        return hidden_states
    rows = (torch.arange(hidden_states.shape[1]) + shift) % hidden_states.shape[1]
    columns = (torch.arange(hidden_states.shape[2]) + shift) % hidden_states.shape[2]
    return hidden_states[:, rows][:, :, columns]
