# SPDX-License-Identifier: Apache-2.0
from .convert import SOURCES as SOURCES
from .convert import import_checkpoint as import_checkpoint
