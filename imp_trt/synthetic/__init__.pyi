# SPDX-License-Identifier: Apache-2.0
from .palette import SCENE_CLASSES as SCENE_CLASSES
from .street import StreetScenes as StreetScenes
from .street import street_video as street_video
