"""What holds for all tests."""

import os

# Before any library that has threads is loaded, and for the processes that tests start: tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["COLUMNS"] = "400"  # or the lines would depend on the terminal that the tests are started from
