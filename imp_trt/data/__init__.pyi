# SPDX-License-Identifier: Apache-2.0
from .dataset import CachedDataset as CachedDataset
from .dataset import Dataset as Dataset
from .dataset import Sample as Sample
from .files import write_atomically as write_atomically
from .images import read_image as read_image
from .instance_maps import connected_instances as connected_instances
