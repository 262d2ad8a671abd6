"""`torchrun --nproc-per-node 2 src/train.py …`: not a test, but what one of them starts."""

import os
import sys

from torch.distributed.run import main

from lab.engine.utils.paths import ROOT

if __name__ == "__main__":
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    main(["--nproc-per-node", "2", "--master-port", "0", "--standalone", str(ROOT / "src" / "train.py"), *sys.argv[1:]])
