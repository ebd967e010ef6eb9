# SPDX-License-Identifier: Apache-2.0
"""Every environment variable of the package is documented."""

from __future__ import annotations

import re

from tests.docs.snippets import ROOT

# Read by os.environ, os.environ.get, getenv of C++, or named in a constant.
READ = re.compile(r"""(?:environ(?:\.get|\.setdefault)?[\[(]\s*|getenv\(\s*|VARIABLE\s*=\s*)["'](\w+)["']""")
PRODUCT = ("imp_trt", "export", "train", "plugins")
FOLDERS = (*PRODUCT, "samples", "tests/support", "tests/conftest.py")


def read_variables(folders: tuple[str, ...] = FOLDERS) -> set[str]:
    found: set[str] = set()
    for folder in folders:
        place = ROOT / folder
        for path in [place] if place.is_file() else place.rglob("*"):
            if path.suffix in (".py", ".cpp", ".h"):
                found |= set(READ.findall(path.read_text()))
    return found


def test_variables_are_found():
    assert {
        "IMP_TRT_CACHE",
        "IMP_TRT_PLUGIN_LIBRARY",
        "IMP_TRT_REGISTER_ON_LOAD",
        "IMP_TRT_TESTS_SHARED",
    } <= read_variables()


def test_every_variable_is_documented():
    documented = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", (ROOT / "docs" / "environment.md").read_text()))
    own = {name for name in read_variables() if name.startswith("IMP_TRT_")}
    assert own <= documented
    assert read_variables(PRODUCT) <= documented, "also those of others"
    assert {name for name in documented if name.startswith("IMP_TRT_")} - {
        "IMP_TRT_BUILD_HARNESS",
        "IMP_TRT_TEST_CACHE",
    } <= own
