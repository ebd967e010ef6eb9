# SPDX-License-Identifier: Apache-2.0
from .interrupts import stop_on_interrupt as stop_on_interrupt
from .pipeline import run_pipeline as run_pipeline
from .serve import BrowserView as BrowserView
from .sinks import DrawOptions as DrawOptions
from .sinks import SegmentedFrame as SegmentedFrame
from .sinks import overlay_sink as overlay_sink
from .source_names import short_names as short_names
from .sources import Frame as Frame
from .sources import open_source as open_source
from .statistics import RunSummary as RunSummary
from .statistics import Snapshot as Snapshot
from .statistics import SourceSnapshot as SourceSnapshot
from .statistics import Statistics as Statistics
from .tracking import Tracker as Tracker
from .writer import VideoWriter as VideoWriter

Segmented = SegmentedFrame
interrupt_ends = stop_on_interrupt
