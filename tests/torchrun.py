"""`torchrun --nproc-per-node 2 src/train.py …`: not a test, but what some of them start.

TORCHRUN holds other options.
"""

import os
import shlex
import sys

from torch.distributed.run import main

from lab.engine.utils.paths import ROOT

if __name__ == "__main__":
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    options = os.environ.get("TORCHRUN", "--nproc-per-node 2 --master-port 0 --standalone")
    main([*shlex.split(options), str(ROOT / "src" / "train.py"), *sys.argv[1:]])
