"""Composes conf/ and params.yaml into build/config; the errors of single entries end with their stages, not here."""

import gc
import sys
from pathlib import Path

from qntz.compose import PARAMS, compose, read_params
from qntz.errors import QntzError, one_line
from qntz.pipelines import bring_into_step
from qntz.remotes import require_sound
from stages.parent import die_with_parent


def main() -> int:
    die_with_parent()
    gc.disable()  # a short process: collecting costs it a tenth of its time
    try:
        require_sound(Path.cwd())
        result = compose(Path.cwd())
        changed = bring_into_step(Path.cwd(), read_params(Path.cwd() / PARAMS))
    except QntzError as error:
        print(f"error: compose: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        do = "See all of it with `python -m stages.compose --debug`."
        print(f"error: compose: unexpected error, a bug in qntz: {one_line(error, place=True)}. {do}", file=sys.stderr)
        return 1
    for error in result.mistakes:
        print(f"error: compose: {error}", file=sys.stderr)
    if changed:  # DVC has read them already
        told = f"pipelines/: did not fit params.yaml, and now do: {', '.join(changed)}. Run `dvc repro` again."
        print(f"error: compose: {told}", file=sys.stderr)
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
