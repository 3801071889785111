"""`python -m dfine_tools.cli`, the same as `dfine`."""

import sys

from dfine_tools.cli import main

sys.exit(main())
