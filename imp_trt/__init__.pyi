from .artifacts import Manifest as Manifest
from .backends import Pending as Pending
from .classes import ClassTable as ClassTable
from .errors import ImpTrtError as ImpTrtError
from .results import Instances as Instances
from .results import SegmentationResult as SegmentationResult
from .segmenter import Segmenter as Segmenter

__version__: str
