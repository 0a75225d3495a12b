"""Architectures of transformers, from small configurations: an error only where the trace really goes wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from qntz.check import check_model

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

Inputs = dict[str, torch.Tensor]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
DETR_SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 5}


def image(batch: int, size: int) -> Inputs:
    return {"pixel_values": torch.rand(batch, 3, size, size) * 2 - 1}


def ids(batch: int, length: int) -> Inputs:
    return {"input_ids": torch.randint(3, 90, (batch, length))}


def built(model: str, config: str, **options: Any) -> torch.nn.Module:
    made = getattr(transformers, config)(**options)
    return getattr(transformers, model)(made).eval()


def detr() -> torch.nn.Module:
    backbone = transformers.ResNetConfig(**STAGES, out_features=["stage2"])
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    given = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    return built("DetrModel", "DetrConfig", backbone_config=backbone, **given, **heads, **DETR_SIZES)


def segformer() -> torch.nn.Module:
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
    return built("SegformerModel", "SegformerConfig", decoder_hidden_size=16, **sizes)


ARCHITECTURES: dict[str, tuple[Callable[[], torch.nn.Module], Inputs, list[Inputs]]] = {
    "resnet": (lambda: built("ResNetModel", "ResNetConfig", **STAGES), image(2, 64), [image(3, 48)]),
    "vit": (lambda: built("ViTModel", "ViTConfig", image_size=32, patch_size=8, **SIZES), image(2, 32), [image(3, 32)]),
    "convnext": (
        lambda: built("ConvNextModel", "ConvNextConfig", hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1]),
        image(2, 64),
        [image(3, 96)],
    ),
    "swin": (lambda: built("SwinModel", "SwinConfig", **SWIN), image(2, 32), [image(3, 32)]),
    "swin of any size": (lambda: built("SwinModel", "SwinConfig", **SWIN), image(2, 32), [image(3, 40), image(2, 48)]),
    "mobilenet_v2": (
        lambda: built("MobileNetV2Model", "MobileNetV2Config", depth_multiplier=0.25),
        image(2, 64),
        [image(3, 96)],
    ),
    "segformer": (segformer, image(2, 64), [image(3, 96)]),
    "clip": (
        lambda: built("CLIPVisionModel", "CLIPVisionConfig", image_size=32, patch_size=8, projection_dim=16, **SIZES),
        image(2, 32),
        [image(3, 32)],
    ),
    "bert": (lambda: built("BertModel", "BertConfig", vocab_size=99, **SIZES), ids(2, 7), [ids(3, 11)]),
    "distilbert": (
        lambda: built(
            "DistilBertModel", "DistilBertConfig", vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=48
        ),
        ids(2, 7),
        [ids(3, 11)],
    ),
    "gpt2": (
        lambda: built("GPT2Model", "GPT2Config", vocab_size=99, n_embd=32, n_layer=2, n_head=4, use_cache=False),
        ids(2, 7),
        [ids(3, 11)],
    ),
    "t5 encoder": (
        lambda: built(
            "T5EncoderModel", "T5Config", vocab_size=99, d_model=32, d_ff=48, num_layers=2, num_heads=4, d_kv=8
        ),
        ids(2, 7),
        [ids(3, 11)],
    ),
    "detr": (detr, image(2, 64), [image(3, 96)]),
    "yolos": (
        lambda: built("YolosModel", "YolosConfig", image_size=[32, 32], patch_size=8, num_detection_tokens=5, **SIZES),
        image(2, 32),
        [image(3, 32)],
    ),
}


def traced_right(model: torch.nn.Module, example: Inputs, probes: list[Inputs]) -> bool:
    """Whether torch.jit.trace itself gives the model's outputs on the probes."""

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            leaves = pytree.tree_leaves(self.model(x))
            return tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

    flat = Flat().eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(flat, tuple(example.values()), check_trace=False)
        for probe in probes:
            wanted = flat(*probe.values())
            try:
                got = traced(*probe.values())
            except RuntimeError:
                return False
            if not all(
                g.shape == w.shape and torch.allclose(g, w, atol=1e-4) for g, w in zip(got, wanted, strict=True)
            ):
                return False
    return True


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_error_only_where_the_trace_goes_wrong(name: str) -> None:
    make, example, probes = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = make()
    report = check_model(model, example, probes)
    right = traced_right(model, example, probes)
    assert right == (name != "swin of any size")
    assert (not report.errors) == right, [f"{f.path}:{f.line} {f.slug} {f.message}" for f in report.errors]
    if not right:
        assert {(f.path, f.slug) for f in report.errors} == {
            ("transformers/models/swin/modeling_swin.py", "shape-dependent-control-flow")
        }
