"""fleet: the engines of all models in one table, where each model has a pipeline of its own (`qntz pipelines`)."""

import sys
from pathlib import Path

from qntz.errors import QntzError, one_line
from stages.parent import die_with_parent


def work(root: Path) -> None:
    import yaml

    from qntz.artifacts import BUILD, write_bytes
    from qntz.errors import ArtifactError
    from qntz.report.fleet import fleet_csv, rows
    from qntz.watch import require_unchanged

    require_unchanged(root, "fleet")
    path = BUILD / "config" / "fleet.yaml"
    try:
        models = yaml.safe_load((root / path).read_text(encoding="utf-8"))["models"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ArtifactError("is damaged", where=str(path), why=one_line(error), do="Run `dvc repro`.") from error
    table = fleet_csv(rows(root, models))
    require_unchanged(root, "fleet")
    write_bytes(root / BUILD / "fleet.csv", table)


def main() -> int:
    die_with_parent()
    try:
        work(Path.cwd())
    except QntzError as error:
        print(f"error: fleet: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        told = f"unexpected error, a bug in qntz: {one_line(error, place=True)}"
        print(f"error: fleet: {told}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
