"""What `dvc repro` would do and why, and what an engine was made from, by DVC's own record of it (dvc.lock).

Nothing here writes into the workspace, but for what compose and DVC remember of files.
"""
