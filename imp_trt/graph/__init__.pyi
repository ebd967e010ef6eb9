# SPDX-License-Identifier: Apache-2.0
from .operands import Columns as Columns
from .operands import Prototypes as Prototypes
from .projection import add_projection as add_projection
