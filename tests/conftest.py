"""What every test starts from."""

from __future__ import annotations

import signal

# A shell that starts `make test` in the background makes it deaf to Ctrl-C, and every process that a test starts too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
