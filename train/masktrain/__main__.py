"""``python -m masktrain``, for torchrun."""

from masktrain.cli.app import main

main()
