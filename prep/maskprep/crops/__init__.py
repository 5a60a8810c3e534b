"""Crops: their geometry, pixels and statistics."""
