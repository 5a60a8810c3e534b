"""Pixels: crop geometry, contact sheets and statistics."""
