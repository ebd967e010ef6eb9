# SPDX-License-Identifier: Apache-2.0
"""Each class of errors has a paragraph, and a command's message ends with its place."""

from __future__ import annotations

import pytest

from imp_trt import errors
from imp_trt.cli.common import run_command
from tests.docs.snippets import ROOT
from tests.docs.test_links import anchors

CLASSES = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, errors.ImpTrtError)]


@pytest.mark.parametrize("cls", CLASSES)
def test_each_class_has_its_paragraph(cls):
    page, _, anchor = cls("x").reference.partition("#")
    assert page == "docs/troubleshooting.md"
    assert anchor in anchors(page)
    section = (ROOT / page).read_text().split(f"\n`{cls.__name__}`, exit code ")
    assert len(section) == 2, "the paragraph begins with the name of the class"
    assert section[1].startswith(f"{cls.exit_code}:")


def test_classes_outside_of_the_module_have_that_of_their_base():
    class Local(errors.OutputError):
        pass

    assert Local("x").reference == "docs/troubleshooting.md#output-error"


def test_the_message_ends_with_the_reference_once(capsys):
    def fail() -> None:
        raise errors.ArtifactError("model.onnx", got="nothing", fix="export again")

    assert run_command(fail) == 4
    message = capsys.readouterr().err
    assert message.endswith("Fix: export again (see docs/troubleshooting.md#artifact-error)\n")
    assert message.count("docs/") == 1
