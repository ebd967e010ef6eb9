# SPDX-License-Identifier: Apache-2.0
"""Environment of child processes that run modules of this package."""

from __future__ import annotations

import os
import site
from collections.abc import Mapping
from pathlib import Path

import imp_trt


def importing_this_package(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, changed so that Python imports this imp_trt in any working directory.

    A program may have found it by its own sys.path, such as in a checkout: a child would then import another
    one that is installed, or none. Relative entries of PYTHONPATH become absolute.
    """
    changed = dict(environment)
    given = environment.get("PYTHONPATH")
    paths = [os.path.abspath(path) for path in given.split(os.pathsep)] if given else []
    root = str(Path(imp_trt.__file__).absolute().parents[1])
    # An installed one is found anyway. Its folder in PYTHONPATH would come before the standard library.
    if root not in {*site.getsitepackages(), site.getusersitepackages()}:
        paths.insert(0, root)
    if paths:
        changed["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return changed
