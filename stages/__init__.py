"""The entry points of the DAG: `python -m stages.<stage> <name>` runs one stage of one model or engine."""
