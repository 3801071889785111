"""`python -m dfine_lib.cli`, by which earlier versions started the command `dfine`."""

import importlib
import sys

if __name__ == "__main__":
    sys.exit(importlib.import_module("dfine_tools.cli").main())
