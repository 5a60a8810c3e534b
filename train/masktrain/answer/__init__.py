"""Trained models: loading them, predictions for photos, caches and videos, evaluation, export."""
