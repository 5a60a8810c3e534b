"""Model weights: which there are, where they come from."""
