"""`papermill …` for `make run`: a cell that fails is reported in its own words, without papermill's traceback.

python notebooks/execute.py IN OUT [any argument of papermill]

The traceback of the cell is in OUT. Exit code 1 where a cell failed, 130 after Ctrl-C, else papermill's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from click.exceptions import Abort, ClickException
from papermill.cli import papermill
from papermill.exceptions import PapermillExecutionError


def main(arguments: Sequence[str]) -> int:
    """Run papermill's command; nothing is raised for a cell that failed."""
    try:
        papermill.main(list(arguments), standalone_mode=False)
    except PapermillExecutionError as error:
        print(f"\n{error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    except ClickException as error:
        error.show()
        return error.exit_code
    except (Abort, KeyboardInterrupt):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
