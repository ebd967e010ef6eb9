# SPDX-License-Identifier: Apache-2.0
from .images import ClassMaps as ClassMaps
from .images import OverlayImages as OverlayImages
from .lines import FrameResults as FrameResults
from .lines import JsonLines as JsonLines
from .overlays import DEFAULT_FPS as DEFAULT_FPS
from .overlays import OverlayVideo as OverlayVideo
from .overlays import overlay_sink as overlay_sink
from .panoptic import PanopticMaps as PanopticMaps
from .sink import BaseSink as BaseSink
from .sink import DrawOptions as DrawOptions
from .sink import LegendHistory as LegendHistory
from .sink import NullSink as NullSink
from .sink import SegmentedFrame as SegmentedFrame
from .sink import Sink as Sink
from .window import Window as Window

Base = BaseSink
OverlayPictures = OverlayImages
Segmented = SegmentedFrame
