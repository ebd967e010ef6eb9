# SPDX-License-Identifier: Apache-2.0
from .base import Backend as Backend
from .base import CanvasBackend as CanvasBackend
from .base import DeviceBackend as DeviceBackend
from .base import DeviceCanvasBackend as DeviceCanvasBackend
from .decoding import decode_instances as decode_instances
from .futures import ResultFuture as ResultFuture
from .opening import BACKEND_NAMES as BACKEND_NAMES
from .opening import open_backend as open_backend
from .preflight import Problem as Problem
from .preflight import problems as problems

Pending = ResultFuture  # deprecated
