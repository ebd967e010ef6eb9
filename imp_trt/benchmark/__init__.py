"""Measuring what a user waits for: every stage of a frame, as percentiles, on the path that apps take."""
