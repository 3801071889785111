"""`python -m dfine_lib.cli`, the same as `dfine`."""

import sys

from dfine_lib.cli import main

sys.exit(main())
