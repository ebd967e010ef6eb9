# SPDX-License-Identifier: Apache-2.0
from .options import TemporalOptions as TemporalOptions
from .state import TemporalState as TemporalState
