"""Trains one run."""

import pytorch_lightning as _  # noqa: F401, which sets the variable below to 1

from lab.engine.utils.console import ignore_known_warnings
from lab.engine.utils.environment import set_variables

ignore_known_warnings()
# Lightning sets this to 1 so that a process can fork after it has looked for GPUs. None forks here, and with 1 every
# step of Adam asks the driver for GPUs again, which takes 50 microseconds
set_variables(PYTORCH_NVML_BASED_CUDA_CHECK="0")
