"""Composes conf/ and params.yaml into build/config; the errors of single entries end with their stages, not here."""

import gc
import sys
from pathlib import Path

from qntz.compose import compose
from qntz.errors import QntzError
from stages.parent import die_with_parent


def main() -> int:
    die_with_parent()
    gc.disable()  # a short process: collecting costs it a tenth of its time
    try:
        result = compose(Path.cwd())
    except QntzError as error:
        print(f"error: compose: {error}", file=sys.stderr)
        return error.exit_code
    for error in result.mistakes:
        print(f"error: compose: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
