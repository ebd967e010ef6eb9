"""For all tests."""

from __future__ import annotations

import signal

# A shell starts its background jobs with Ctrl-C ignored. Tests that interrupt themselves or a program that
# they start would then wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
