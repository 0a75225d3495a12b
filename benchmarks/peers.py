"""The peers of calibration and quantization: each in an environment of its own under build/bench, installed once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path("build/bench/peers")
PEERS = {
    "onnxruntime": ["onnxruntime==1.31.1", "onnx==1.23.2", "sympy"],
    "modelopt": ["nvidia-modelopt[onnx]==0.47.0"],
}
RUNS = [
    ("onnxruntime", "MinMax"),
    ("onnxruntime", "Entropy"),
    ("onnxruntime", "Percentile"),
    ("modelopt", "max"),
    ("modelopt", "entropy"),
]


def environment(peer: str) -> Path:
    """The peer's own Python."""
    folder = FOLDER / f"env-{peer}"
    python = folder / "bin/python"
    ready, wanted = folder / ".ready", "\n".join(PEERS[peer])
    if not (ready.exists() and ready.read_text() == wanted):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "-q", *PEERS[peer]], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{peer} cannot be installed:\n{done.stderr[-2000:]}")
        ready.write_text(wanted)
    return python


def run(peer: str, method: str, model: Path, data: Path, count: int, output: Path) -> dict[str, float]:
    """The peer calibrates on the first images of a file and writes the quantized model; CPU and wall seconds and peak
    memory in MiB, without imports."""
    command = [str(environment(peer)), "benchmarks/peers_of_calibrate.py", peer, method, str(model), str(data)]
    return told([*command, str(count), str(output)])


def told(command: list[str]) -> dict[str, float]:
    """The JSON of a command's last line."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))
