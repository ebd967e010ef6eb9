# SPDX-License-Identifier: Apache-2.0
from .artifacts import Manifest as Manifest
from .backends import ResultFuture as ResultFuture
from .classes import ClassTable as ClassTable
from .engine import Engine as Engine
from .errors import ImpTrtError as ImpTrtError
from .preprocessing import Nv12Frame as Nv12Frame
from .results import Instances as Instances
from .results import SegmentationResult as SegmentationResult
from .segmenter import Segmenter as Segmenter
from .temporal import TemporalOptions as TemporalOptions
from .temporal import TemporalState as TemporalState

Pending = ResultFuture  # deprecated

__version__: str
