# SPDX-License-Identifier: Apache-2.0
"""Runs :mod:`research.ablation.cli`."""

from research.ablation.cli import main

raise SystemExit(main())
