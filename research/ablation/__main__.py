"""Runs :mod:`research.ablation.cli`."""

from research.ablation.cli import main

raise SystemExit(main())
