"""Pages and charts of measurements: imp-eval's report, and the charts of the ablation page."""
