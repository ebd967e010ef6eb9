# SPDX-License-Identifier: Apache-2.0
"""Pages and charts of measurements: imp-eval's report, and the charts of the ablation page."""
