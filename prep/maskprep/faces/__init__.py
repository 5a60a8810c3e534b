"""Faces: detectors and the choice of the subject."""
