"""masktrain: a lean trainer on the crops that maskprep caches.

The commands are plain functions too, with the same names and defaults: see ``masktrain.api``.
"""
