"""Run folders: what is kept of every fit, and how it travels."""
