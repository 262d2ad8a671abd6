"""Makes Lightning write checkpoints atomically, and not amid a full disk."""

from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO

from lab.engine.checkpointing.files import write_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints with `lab.engine.checkpointing.files`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_checkpoint(checkpoint, Path(path))
