"""For all tests."""

from __future__ import annotations

import signal

import pytest

# A shell starts its background jobs with Ctrl-C ignored. Tests that interrupt themselves or a program that
# they start would then wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_thread():
    """Sums in a fixed order: what is compared to the bit must not depend on the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
