"""`src/train.py …`, and whether that imported torch: not a test, but what one of them starts."""

import atexit
import runpy
import sys

from lab.engine.utils.paths import ROOT

if __name__ == "__main__":
    atexit.register(lambda: print("torch was imported", file=sys.stderr) if "torch" in sys.modules else None)
    sys.argv[0] = str(ROOT / "src" / "train.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
