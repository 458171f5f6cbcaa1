"""For all tests: one thread a worker, as two workers share two cores, and a cache folder that is not the user's."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["REWARM_CACHE"] = tempfile.mkdtemp(prefix="rewarm-tests-cache-")
atexit.register(shutil.rmtree, os.environ["REWARM_CACHE"], ignore_errors=True)
os.environ["HF_HUB_OFFLINE"] = "1"
