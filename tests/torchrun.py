"""`torchrun --nproc-per-node 2 src/train.py …`: not a test, but what some of them start.

TORCHRUN holds other options. Where there is a FAULT, tests/faulty.py runs in place of src/train.py.
"""

import os
import shlex
import sys

from torch.distributed.run import main

from lab.engine.utils.paths import ROOT

if __name__ == "__main__":
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    options = os.environ.get("TORCHRUN", "--nproc-per-node 2 --master-port 0 --standalone")
    script = ROOT / ("tests/faulty.py" if "FAULT" in os.environ else "src/train.py")
    main([*shlex.split(options), str(script), *sys.argv[1:]])
