"""What must be set before any library starts its threads."""

import os

# With `pytest -n 2` each of two processes has as many threads as there are cores. Those that wait must sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
