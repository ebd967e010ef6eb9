"""What imp-eval measures: class maps, boundaries, instances and panoptic quality, one module each."""
