"""masktrain: a lean trainer on the crops that maskprep caches."""
