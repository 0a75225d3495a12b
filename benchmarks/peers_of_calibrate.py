"""One peer's calibration and quantization of a model, measured in a process of its own: the peer's environment runs it,
and nothing of qntz. `python peers_of_calibrate.py PEER METHOD MODEL IMAGES COUNT OUTPUT` prints JSON."""

import json
import resource
import sys
import time

import numpy as np


def by_onnxruntime(method, model, images, name, output):
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def get_next(self):
            image = next(images, None)
            return None if image is None else {name: image[None]}

    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "AddQDQPairToWeight": True, "QuantizeBias": False}
    return lambda: quantize_static(
        model,
        output,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=getattr(CalibrationMethod, method),
        extra_options=options,
    )


def by_modelopt(method, model, images, name, output):
    from modelopt.onnx.quantization import quantize

    return lambda: quantize(
        model,
        quantize_mode="int8",
        calibration_data={name: images},
        calibration_method=method,
        calibration_eps=["cpu"],
        output_path=output,
        high_precision_dtype="fp32",
    )


def read(path, count):
    """The images one at a time, and not mapped: what is mapped counts as memory of the process."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        size = int(np.prod(shape[1:]))
        for _ in range(count):
            yield np.fromfile(file, dtype, size).reshape(shape[1:])


def measured(work):
    """Prints the CPU seconds of all threads, the wall seconds, and the MiB of memory that this process has held at most
    (ru_maxrss would be its parent's, where that held more), as JSON."""
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**10
    print(json.dumps({"cpu": cpu, "wall": time.perf_counter() - started, "peak": peak}))


def main():
    peer, method, model, path, count, output = sys.argv[1:]
    import onnx

    name = onnx.load(model, load_external_data=False).graph.input[0].name
    if peer == "onnxruntime":
        work = by_onnxruntime(method, model, read(path, int(count)), name, output)
    else:
        work = by_modelopt(method, model, np.stack(list(read(path, int(count)))), name, output)
    measured(work)


if __name__ == "__main__":
    main()
