"""A run of `dvc repro` that takes its turn: one at a time in a workspace, after what a killed one left is mended."""
