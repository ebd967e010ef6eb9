"""The paper's ablation as one resumable experiment, and the page made of its results."""
