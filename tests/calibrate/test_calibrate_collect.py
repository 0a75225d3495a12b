"""The calibration pass: what it counts, what it does not depend on, and what it refuses."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qntz.artifacts import npz_bytes
from qntz.calibrate import collect, quantizable_tensors
from qntz.calibrate.channels import ChannelCounts
from qntz.calibrate.tapped import Tapped
from qntz.errors import ArtifactError, DataError, QntzError
from qntz.histograms import Histogram, arrays_of, coprime_stride, histogram_of
from qntz.scalable import Layout

RNG = np.random.default_rng(7)
IMAGES = RNG.normal(0, 1, (13, 3, 6, 5)).astype(np.float32)
KERNEL = RNG.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
DENSE = RNG.normal(0, 0.3, (4, 7)).astype(np.float32)


def conv_net() -> onnx.ModelProto:
    """Conv, Relu, mean over the image, Gemm, product of the result with its transpose."""
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("ReduceMean", ["r"], ["m"], "mean", axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["m", "dense"], ["g"], "gemm"),
        helper.make_node("Unsqueeze", ["g", "axis"], ["u"], "unsqueeze"),
        helper.make_node("Transpose", ["u"], ["t"], "transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["u", "t"], ["y"], "product"),
    ]
    return model_of(nodes, {"kernel": KERNEL, "dense": DENSE, "axis": np.array([2])}, ["n", 3, 6, 5], ["n", 7, 7])


def model_of(nodes, weights, shape_in, shape_out) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape_out)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(conv_net(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def in_batches(size: int, images: np.ndarray = IMAGES):
    return ({"x": images[i : i + size]} for i in range(0, len(images), size))


def same(a: dict[str, Histogram], b: dict[str, Histogram]) -> bool:
    """Byte for byte, as they are written."""
    return npz_bytes(arrays_of(a)) == npz_bytes(arrays_of(b))


def test_the_tensors_are_the_activations_of_weighted_nodes():
    assert quantizable_tensors(conv_net()) == ["x", "m", "u", "t"]


def test_nodes_of_subgraphs_and_other_types_give_no_tensor():
    model = conv_net()
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["r", "r"], ["inner"], "in_if")],
        "then",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    model.graph.node.append(helper.make_node("If", ["flag"], ["z"], "if", then_branch=inner, else_branch=inner))
    model.graph.node.append(helper.make_node("MatMul", ["numbers", "numbers"], ["nn"], "of_integers"))
    model.graph.initializer.append(numpy_helper.from_array(np.eye(2, dtype=np.int64), "numbers"))
    assert quantizable_tensors(model) == ["x", "m", "u", "t"]


def test_counts_are_those_of_the_values_worked_out_with_torch(path):
    import torch
    from torch.nn import functional

    seen = collect(path, in_batches(4))
    assert list(seen) == ["m", "t", "u", "x"]
    assert np.array_equal(seen["x"].counts, histogram_of(IMAGES).counts)
    mean = functional.conv2d(torch.from_numpy(IMAGES), torch.from_numpy(KERNEL), padding=1).relu().mean((2, 3))
    out = (mean @ torch.from_numpy(DENSE)).numpy()
    assert seen["m"].maximum == pytest.approx(float(mean.max()), rel=1e-5)
    assert seen["m"].counts.sum() == 13 * 4
    assert seen["u"].counts.sum() == 13 * 7
    # Another kernel may round a value over the edge of its bin, so that a few counts may move to the next bin.
    moved = np.abs(np.cumsum(seen["u"].counts) - np.cumsum(histogram_of(out).counts)).max()
    assert moved <= 2
    assert (seen["u"].minimum, seen["u"].maximum) == pytest.approx((float(out.min()), float(out.max())), rel=1e-4)


def test_a_tensor_that_is_an_output_already_is_counted_once(path, tmp_path):
    model = conv_net()
    model.graph.output.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, ["n", 4]))
    onnx.save(model, tmp_path / "two.onnx")
    both = (collect(one, in_batches(4), channels=False) for one in (tmp_path / "two.onnx", path))
    assert same(*both)  # an output cannot be rescaled


@pytest.mark.parametrize("stride", [1, 7])
@pytest.mark.parametrize(("size", "workers"), [(1, 1), (5, 3), (13, 2)])
def test_batch_size_order_and_workers_change_nothing(tmp_path, size, workers, stride):
    """Of tensors small and large, in blocks and in order, of zeros of either sign."""
    onnx.save(two_convolutions(16, 40), tmp_path / "m.onnx")
    images = RNG.normal(0, 1, (13, 3, 40, 40)).astype(np.float32).clip(0)
    images[::2] *= -1
    order = np.random.default_rng(size).permutation(len(images))
    reference = collect(tmp_path / "m.onnx", in_batches(4, images), workers=1, stride=stride)
    assert reference["r"].counts.sum() == pytest.approx(13 * 16 * 40 * 40, rel=1e-3)
    assert same(
        reference, collect(tmp_path / "m.onnx", in_batches(size, images[order]), workers=workers, stride=stride)
    )


def test_halves_merge_into_the_whole(path):
    first, second = (collect(path, in_batches(3, part)) for part in (IMAGES[:5], IMAGES[5:]))
    assert same({name: first[name].merged(second[name]) for name in first}, collect(path, in_batches(4)))


@pytest.mark.parametrize(
    ("shape", "least", "stride"),
    [((64, 14, 14), 7, 9), ((3, 224, 224), 7, 11), ((16, 40, 40), 7, 7), ((9, 9), 2, 2), ((8, 3), 1, 1)],
)
def test_a_stride_meets_all_positions_alike(shape, least, stride):
    assert coprime_stride(shape, least) == stride
    met = np.arange(stride * np.prod(shape))[::stride] % np.prod(shape)  # as over many samples of a contiguous stream
    for axis, size in enumerate(shape):
        position = np.unravel_index(met, shape)[axis]
        assert np.ptp(np.bincount(position, minlength=size)) == 0


def two_convolutions(channels: int, size: int = 0) -> onnx.ModelProto:
    """Conv and Relu, twice; what the first gives is read by the second alone. size: of the images, 6 by 5 for 0."""
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "second"], ["y"], "conv2"),
    ]
    weights = {
        "first": RNG.normal(size=(channels, 3, 3, 3)).astype(np.float32),
        "second": RNG.normal(size=(16, channels, 3, 3)).astype(np.float32),
    }
    height, width = (size, size) if size else (6, 5)
    return model_of(nodes, weights, ["n", 3, height, width], ["n", 16, height - 2, width - 2])


@pytest.mark.parametrize(("channels", "in_blocks"), [(16, True), (48, True), (12, False), (40, False)])
def test_what_is_held_in_blocks_is_counted_as_it_is_held(tmp_path, channels, in_blocks):
    """In another order, and without the zeros that fill up blocks."""
    import torch
    from torch.nn import functional

    model = two_convolutions(channels)
    onnx.save(model, tmp_path / "m.onnx")
    kernel = numpy_helper.to_array(model.graph.initializer[0])
    tapped = Tapped(model, ["x", "r"])
    values = tapped.run({"x": IMAGES[:1]})
    assert np.array_equal(values["x"], IMAGES[:1])
    wanted = functional.conv2d(torch.from_numpy(IMAGES), torch.from_numpy(kernel.copy()), padding=1).relu().numpy()
    np.testing.assert_allclose(np.sort(values["r"], axis=None), np.sort(wanted[0], axis=None), rtol=1e-4, atol=1e-5)
    is_ordered = np.allclose(values["r"].reshape(wanted[:1].shape), wanted[:1], rtol=1e-4, atol=1e-5)
    if platform.machine() in ("x86_64", "AMD64"):  # where ONNX Runtime has blocks
        assert is_ordered != in_blocks
    seen = collect(tmp_path / "m.onnx", in_batches(4))["r"]
    assert seen.counts.sum() == wanted.size
    assert np.abs(np.cumsum(seen.counts) - np.cumsum(histogram_of(wanted).counts)).max() <= 2


@pytest.mark.parametrize("channels", [16, 12])
def test_channels_are_counted_each_by_itself_in_blocks_and_in_order(tmp_path, channels):
    import torch
    from torch.nn import functional

    model = two_convolutions(channels)
    onnx.save(model, tmp_path / "m.onnx")
    kernel = numpy_helper.to_array(model.graph.initializer[0])
    seen = collect(tmp_path / "m.onnx", in_batches(4))["r"].channels
    assert collect(tmp_path / "m.onnx", in_batches(4))["x"].channels is None  # nothing takes its scales up
    wanted = functional.conv2d(torch.from_numpy(IMAGES), torch.from_numpy(kernel.copy()), padding=1).relu().numpy()
    by_channel = wanted.transpose(1, 0, 2, 3).reshape(channels, -1)
    np.testing.assert_allclose(seen.amax, by_channel.max(1), rtol=1e-4)
    np.testing.assert_array_equal(seen.counts.sum(1), by_channel.shape[1])
    for counts, values in zip(seen.counts, by_channel, strict=True):
        mantissa, exponent = np.frexp(values[values > 0])  # a mantissa of 0.5 to 1
        bins = (exponent - 1 + 32) * 8 + np.floor((mantissa * 2 - 1) * 8).astype(int)
        expected = np.bincount(bins, minlength=384)
        expected[0] += (values == 0).sum()
        assert np.abs(np.cumsum(counts) - np.cumsum(expected)).max() <= 2  # another kernel rounds otherwise
    np.testing.assert_allclose(seen.moments(), (by_channel**2).mean(1), rtol=0.05)


def test_counts_of_channels_outgrow_32_bits():
    counts = ChannelCounts(Layout((1,), np.arange(1, 3)), None, 0)
    values = np.float32([[1, 2], [1, 4]])
    seen = dataclasses.replace(counts.seen(values, large=False, signed=False), stride=2**30)
    for _ in range(3):
        counts.add(seen)
    found = counts.channels()
    assert found.counts.sum() == 3 * 4 * 2**30
    assert found.counts[0].max() == 6 * 2**30  # both ones, three times
    assert found.amax.tolist() == [1, 4]


def test_a_channel_on_several_axes_is_found_in_each_sample(tmp_path):
    """[n, length, heads * 3], split into heads, transposed, and read by a product of two activations."""
    nodes = [
        helper.make_node("MatMul", ["x", "value"], ["v"], "value"),
        helper.make_node("Reshape", ["v", "heads"], ["h"], "split"),
        helper.make_node("Transpose", ["h"], ["t"], "turn", perm=[0, 2, 1, 3]),
        helper.make_node("MatMul", ["mix", "t"], ["m"], "mixed"),
        helper.make_node("Transpose", ["m"], ["b"], "back", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["b", "joined"], ["j"], "join"),
        helper.make_node("MatMul", ["j", "out"], ["y"], "output"),
    ]
    scales = np.float32([1, 2, 4, 8, 16, 32])
    weights = {
        "value": np.diag(scales),
        "heads": np.array([0, 0, 2, 3]),
        "mix": np.eye(5, dtype=np.float32)[None, None],
        "joined": np.array([0, 0, 6]),
        "out": np.eye(6, dtype=np.float32),
    }
    model = model_of(nodes[:4] + nodes[4:], weights, ["n", 5, 6], ["n", 5, 6])
    model.graph.initializer.remove(next(one for one in model.graph.initializer if one.name == "mix"))
    model.graph.input.append(helper.make_tensor_value_info("mix", TensorProto.FLOAT, [1, 1, 5, 5]))
    onnx.save(model, tmp_path / "m.onnx")
    x = RNG.normal(0, 1, (7, 5, 6)).astype(np.float32)
    mix = np.eye(5, dtype=np.float32)[None, None]
    seen = collect(tmp_path / "m.onnx", [{"x": x[i : i + 1], "mix": mix} for i in range(7)])
    for tensor in ("t", "j"):
        np.testing.assert_array_equal(seen[tensor].channels.amax, np.abs(x * scales).max((0, 1)))


def test_a_blocked_tensor_that_is_read_in_order_too_keeps_its_values():
    import torch

    model = two_convolutions(16)
    kernel = torch.from_numpy(numpy_helper.to_array(model.graph.initializer[0]).copy())
    model.graph.node.append(helper.make_node("Transpose", ["r"], ["z"], "turn", perm=[0, 2, 3, 1]))
    model.graph.node.append(helper.make_node("MatMul", ["z", "dense"], ["w"], "product"))
    model.graph.initializer.append(numpy_helper.from_array(np.eye(16, dtype=np.float32), "dense"))
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, None))
    values = Tapped(model, ["r", "z", "w"]).run({"x": IMAGES[:1]})
    wanted = torch.nn.functional.conv2d(torch.from_numpy(IMAGES[:1]), kernel, padding=1).relu().numpy()
    np.testing.assert_allclose(values["z"], wanted.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(values["w"], values["z"])  # a product with the identity
    np.testing.assert_array_equal(np.sort(values["r"], axis=None), np.sort(values["z"], axis=None))


def test_convolutions_in_branches_are_no_obstacle(tmp_path):
    """ONNX Runtime gives the blocked tensors of a graph and of its branches one name."""
    model = two_convolutions(16)
    plain = tmp_path / "plain.onnx"
    onnx.save(model, plain)
    kernel = numpy_helper.from_array(RNG.normal(size=(16, 16, 3, 3)).astype(np.float32), "inner")

    def branch(node: onnx.NodeProto) -> onnx.GraphProto:
        node.input[0] = "r"
        return helper.make_graph([node], node.output[0], [], [helper.make_empty_tensor_value_info(node.output[0])])

    first = branch(helper.make_node("Conv", ["r", "inner"], ["convolved"], pads=[1, 1, 1, 1]))
    other = branch(helper.make_node("Relu", ["r"], ["kept"]))
    model.graph.initializer.extend([kernel, numpy_helper.from_array(np.array(True), "flag")])
    model.graph.node.append(helper.make_node("If", ["flag"], ["z"], "if", then_branch=first, else_branch=other))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "if.onnx")
    assert same(*(collect(one, in_batches(4), channels=False) for one in (tmp_path / "if.onnx", plain)))


def test_a_strided_element_stands_for_as_many_and_small_tensors_are_counted_whole(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "matmul")]
    weights = {"w": np.ones((5, 2), np.float32)}
    onnx.save(model_of(nodes, weights, ["n", "length", 5], ["n", "length", 2]), tmp_path / "m.onnx")
    long, short = (RNG.normal(0, 1, (1, length, 5)).astype(np.float32) for length in (3300, 3200))
    seen = collect(tmp_path / "m.onnx", [{"x": long}, {"x": short}], stride=3)["x"]  # of 16,500 and of 16,000 elements
    upper = long.reshape(-1)[::7].view(np.uint32) >> 16
    wanted = 7 * np.bincount(upper, minlength=1 << 16) + np.bincount(
        short.reshape(-1).view(np.uint32) >> 16, minlength=1 << 16
    )
    np.testing.assert_array_equal(seen.counts, wanted)
    both = np.concatenate([long, short], axis=1)
    assert (seen.minimum, seen.maximum) == (both.min(), both.max())


def test_single_rows_round_otherwise_than_batches_so_that_batches_are_split(tmp_path):
    """The sum over the middle axis of one sample takes another kernel than that of several."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axis"], ["s"], "sum", keepdims=0),
        helper.make_node("MatMul", ["s", "w"], ["y"], "matmul"),
    ]
    weights = {"axis": np.array([1]), "w": RNG.normal(size=(64, 5)).astype(np.float32)}
    onnx.save(model_of(nodes, weights, ["n", 33, 64], ["n", 5]), tmp_path / "sum.onnx")
    data = RNG.normal(0, 1, (200, 33, 64)).astype(np.float32)
    alone = collect(tmp_path / "sum.onnx", in_batches(1, data))
    assert same(alone, collect(tmp_path / "sum.onnx", in_batches(9, data)))
    whole = collect(tmp_path / "sum.onnx", in_batches(9, data), split=False)
    assert whole["s"].counts.sum() == alone["s"].counts.sum()


def test_a_fixed_batch_size_is_not_split(tmp_path):
    model = conv_net()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "fixed.onnx")
    assert collect(tmp_path / "fixed.onnx", in_batches(4, IMAGES[:8]))["m"].counts.sum() == 8 * 4


def test_optimisation_keeps_tapped_tensors_that_it_would_fuse_away(tmp_path):
    """BatchNormalization folds into Conv, and Identity is dropped: the tapped names must survive with their values."""
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], "conv"),
        helper.make_node("BatchNormalization", ["c", "s", "b", "mean", "var"], ["n"], "bn"),
        helper.make_node("Identity", ["n"], ["i"], "identity"),
        helper.make_node("Conv", ["i", "second"], ["y"], "conv2"),
    ]
    ones = np.ones(4, np.float32)
    weights = {
        "kernel": KERNEL,
        "second": KERNEL.transpose(1, 0, 2, 3).copy(),
        "s": 2 * ones,
        "b": ones,
        "mean": 0 * ones,
        "var": ones,
    }
    onnx.save(model_of(nodes, weights, ["n", 3, 6, 5], ["n", 3, 2, 1]), tmp_path / "bn.onnx")
    model = onnx.load(tmp_path / "bn.onnx")
    assert quantizable_tensors(model) == ["x", "i"]
    from onnx.reference import ReferenceEvaluator

    model.graph.output.append(helper.make_tensor_value_info("i", TensorProto.FLOAT, None))
    expected = ReferenceEvaluator(model).run(["i"], {"x": IMAGES})[0]
    seen = collect(tmp_path / "bn.onnx", in_batches(6))["i"]
    assert (seen.minimum, seen.maximum) == pytest.approx((expected.min(), expected.max()), rel=1e-5)


@pytest.mark.parametrize(("bad", "kind"), [(-1.0, "NaN"), (0.0, "infinity")])
def test_nan_and_infinity_name_the_tensor_and_the_first_bad_batch(tmp_path, bad, kind):
    nodes = [helper.make_node("Log", ["x"], ["l"], "log"), helper.make_node("MatMul", ["l", "w"], ["y"], "matmul")]
    onnx.save(model_of(nodes, {"w": DENSE}, ["n", 4], ["n", 7]), tmp_path / "log.onnx")
    data = np.full((24, 4), 0.5, np.float32)
    data[[9, 15, 23], 2] = bad
    with pytest.raises(DataError) as caught:
        collect(tmp_path / "log.onnx", in_batches(2, data), workers=3)
    assert str(caught.value) == (
        f"calibration batch 4: activation 'l' holds {kind}. Find the operator that makes it; int8 has neither."
    )


def test_no_batches_are_refused(path):
    with pytest.raises(DataError, match=r"m\.onnx: no calibration batches\. Point model\.data\.calibrate at data\.$"):
        collect(path, iter(()))


def test_a_missing_input_and_a_wrong_shape_name_the_batch(path):
    with pytest.raises(DataError, match=r"^calibration batch 1 \(x float32 \[1, 2, 6, 5\]\): ONNX Runtime cannot run"):
        collect(path, [{"x": IMAGES[:1]}, {"x": IMAGES[:1, :2]}])
    with pytest.raises(
        DataError,
        match=r"^calibration batch 0 \(z float32 \[1, 3, 6, 5\]\): ONNX Runtime cannot run the graph: Required inputs \(\['x'\]\)",
    ):
        collect(path, [{"z": IMAGES[:1]}])


def test_inputs_of_unequal_numbers_are_refused(path):
    with pytest.raises(DataError, match=r"^calibration batch 0: the inputs have unequal .* samples: x 13, y 1\.$"):
        collect(path, [{"x": IMAGES, "y": IMAGES[:1]}])


def test_a_missing_or_damaged_model_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"gone\.onnx: is missing\. Run `dvc repro`\.$"):
        collect(tmp_path / "gone.onnx", in_batches(4))
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ArtifactError, match=r"bad\.onnx: is no ONNX model: DecodeError"):
        collect(tmp_path / "bad.onnx", in_batches(4))


class Recorder:
    def __init__(self, stop_at: int = 99) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.stop_at = stop_at

    def step(self, phase: str, done: int, total: int) -> bool:
        self.steps.append((phase, done, total))
        return done < self.stop_at


def test_progress_is_told_and_can_stop(path):
    progress = Recorder()
    collect(path, in_batches(5), progress=progress, total=3)
    assert progress.steps == [("calibrate", 1, 3), ("calibrate", 2, 3), ("calibrate", 3, 3)]
    with pytest.raises(QntzError, match=r"^calibrate: stopped on request\.$"):
        collect(path, in_batches(1), progress=Recorder(stop_at=2))


def test_batches_are_read_only_as_fast_as_they_are_used(path):
    """Memory is bounded: no more than two batches a worker wait."""
    read, most = 0, 0

    class Watch(Recorder):
        def step(self, phase: str, done: int, total: int) -> bool:
            nonlocal most
            most = max(most, read - done)
            return True

    def counted():
        nonlocal read
        for batch in in_batches(1, np.concatenate([IMAGES] * 3)):
            read += 1
            yield batch

    collect(path, counted(), workers=2, progress=Watch())
    assert read == 39
    assert most <= 4
