"""One thread a process: the tests' tensors are small, and pytest-xdist fills the other cores."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported
