"""maskprep: find the right face, clean the labels, cache the crops."""

__version__ = "0.1.0"
