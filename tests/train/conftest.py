from __future__ import annotations

import pytest


@pytest.fixture
def one_thread():
    """Sums in a fixed order: what is compared to the bit must not depend on the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
