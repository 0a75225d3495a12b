"""Hydra's multirun over engines: each of its jobs is one of DVC's experiments, in a workspace of its own.

`python -m examples.sweep --multirun method=percentile,entropy`, from the root of the repository, with all committed.
The keys are those of conf/quantize/int8.yaml, so it is about all engines that take their options from there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parent.parent
SWEPT = "conf/quantize/int8.yaml"


@hydra.main(version_base=None, config_path=str((ROOT / SWEPT).parent), config_name=Path(SWEPT).stem)
def main(_: DictConfig) -> None:
    """One combination."""
    task = HydraConfig.get().overrides.task
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp"]
    told = [part for one in task for part in ("-S", f"{SWEPT}:{one}")]
    code = subprocess.run([*command, *told], cwd=ROOT, check=False).returncode
    if code:  # DVC has said why; the other combinations go on
        raise CompactHydraException(f"{' '.join(task)}: dvc exp run ended with exit code {code}")


if __name__ == "__main__":
    main()
