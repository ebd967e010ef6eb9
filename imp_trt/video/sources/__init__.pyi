# SPDX-License-Identifier: Apache-2.0
from .addresses import redacted as redacted
from .files import VIDEO_SUFFIXES as VIDEO_SUFFIXES
from .files import ImageSource as ImageSource
from .files import VideoSource as VideoSource
from .files import natural_key as natural_key
from .frame import Frame as Frame
from .live import LiveSource as LiveSource
from .opening import open_source as open_source
from .source import Source as Source
