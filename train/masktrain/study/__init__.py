"""Fits: prepared, tried out, done, gone on with, done for all folds, searched over."""
