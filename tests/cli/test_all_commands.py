# SPDX-License-Identifier: Apache-2.0
"""python -m imp_trt, completion, and what the help of every command shows."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from imp_trt.__main__ import COMMANDS, main
from imp_trt.cli.common import help_text

PROJECT = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()


def options(name):
    return [a for a in import_module(COMMANDS[name]).parser()._actions if a.help != argparse.SUPPRESS]


def test_the_commands_are_those_that_are_installed():
    assert dict(re.findall(r'^(imp-[\w-]+) = "([\w.]+):main"$', PROJECT, re.MULTILINE)) == COMMANDS


def test_the_module_lists_them():
    done = subprocess.run([sys.executable, "-m", "imp_trt"], capture_output=True, text=True, check=True)
    assert re.findall(r"^  (imp-\w+) +\S", done.stdout, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_that_take_a_value_show_their_default(name):
    for action in options(name):
        text = help_text(action)
        assert text, action.option_strings
        if action.option_strings and action.nargs != 0 and action.default not in (None, (), []):
            assert "default" in text, action.option_strings


@pytest.mark.parametrize("name", COMMANDS)
def test_thousands_of_threads_are_rejected_before_any_work(name):
    """They use up the memory, and PyTorch takes no numbers above 64 bits."""
    parser = import_module(COMMANDS[name]).parser()
    for action in parser._actions:
        if action.dest in ("threads", "workers"):
            assert action.type("1024") == 1024
            for text in ("0", "1025", "99999999999999999999"):
                with pytest.raises(argparse.ArgumentTypeError):
                    action.type(text)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_is_formatted(name, capsys):
    with pytest.raises(SystemExit):
        import_module(COMMANDS[name]).main(["--help"])
    assert "%(" not in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell, tmp_path, capsys):
    pytest.importorskip("shtab", reason="needs shtab (extra completion)")
    assert main(["--completion", shell]) == 0
    script = tmp_path / "complete"
    script.write_text(capsys.readouterr().out)
    assert all(name in script.read_text() for name in COMMANDS)
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    if shell == "zsh":
        subprocess.run(["zsh", "-n", str(script)], check=True)
        return
    asked = (
        f"source {script}; COMP_WORDS=(imp-segment --serv); COMP_CWORD=1; COMP_LINE='imp-segment --serv'; "
        "$(complete -p imp-segment | sed 's/.*-F \\([^ ]*\\) .*/\\1/') imp-segment --serv imp-segment; "
        'echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"--serve", "--serve-host"}, done.stderr


def test_completion_names_what_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--completion", "bash"]) == 5
    assert "imp-trt[completion]" in capsys.readouterr().err
