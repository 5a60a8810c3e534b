"""masktrain: a lean trainer on the crops that maskprep caches.

The commands are plain functions too, each in the module of its name: ``masktrain.fit.fit``,
``masktrain.evaluate.evaluate``, ``masktrain.predict.predict``.
"""
