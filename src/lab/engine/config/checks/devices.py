"""What a run asks of this machine's devices, and how it shares them: rules like those of `rules`."""

import sys

from omegaconf import DictConfig, ListConfig

from lab.engine.config.compose import get
from lab.engine.utils import machine
from lab.engine.utils.errors import UserError


def devices(cfg: DictConfig) -> None:
    """A GPU that is asked for is there, and a number of devices is one."""
    accelerator, wanted = cfg.trainer.accelerator, cfg.trainer.devices
    said = f"trainer.devices={wanted}"
    if (isinstance(wanted, int) and (wanted == 0 or wanted < -1)) or (isinstance(wanted, ListConfig) and not wanted):
        raise UserError(f"{said}: expected 1 or more, -1 for all there are, or auto")
    if isinstance(wanted, ListConfig) and len(set(wanted)) < len(wanted):
        raise UserError(f"{said}: a device is named twice")
    several = isinstance(wanted, ListConfig) or "," in str(wanted)
    if accelerator == "cpu" and (several or wanted == -1):
        raise UserError(f"{said}: on CPUs it is a number of processes, so give 1 or more")
    for name, there in (("mps", sys.platform == "darwin"), ("tpu", machine.has_package("torch_xla"))):
        if accelerator == name and not there:
            raise UserError(f"trainer.accelerator={name}: this machine has none; use trainer=auto")
    if accelerator == "mps" and isinstance(wanted, int) and wanted > 1:
        raise UserError(f"{said}: a Mac has one GPU: use trainer.devices=1")
    if accelerator not in ("gpu", "cuda"):
        return
    least = wanted if isinstance(wanted, int) else max(wanted) + 1 if isinstance(wanted, ListConfig) else 1
    found = machine.count_gpus()
    if found < max(1, least):
        raise UserError(
            f"trainer.accelerator={accelerator}, devices={wanted}: this machine has {found} GPUs\n"
            "use trainer=auto or trainer=cpu for one process, trainer=ddp_cpu for two processes without a GPU"
        )


def precision(cfg: DictConfig) -> None:
    """Half precision with a scaled loss is CUDA's: Lightning would take bfloat16 in its place and go on."""
    wanted = str(cfg.trainer.precision)
    if wanted in ("16", "16-mixed") and _on_cpu(cfg):
        raise UserError(
            f"trainer.precision={wanted} needs a GPU, and this run is on the CPU: use bf16-mixed or 32-true"
        )


def shared_batch(cfg: DictConfig) -> None:
    """A batch is shared by all processes in equal parts."""
    size, ranks = get(cfg, "data.batch_size"), processes(cfg)
    if not str(cfg.data.get("_target_")).startswith("lab.data.") or not isinstance(size, int) or ranks is None:
        return
    samples = samples_of(cfg)
    # More than there are means all of them. How many a file has is not known here; nobody means so large a batch.
    size = min(size, samples or (size if size <= 2**16 else ranks))
    if size % ranks:
        below, written = size // ranks * ranks, cfg.data.batch_size
        all_of_them = "" if size == written else f", which is all {size} samples,"
        raise UserError(
            f"data.batch_size={written}{all_of_them} cannot be shared by {ranks} processes"
            f" (trainer.devices={cfg.trainer.devices}, num_nodes={cfg.trainer.num_nodes})\n"
            f"the nearest sizes that can: {f'{below} and ' if below else ''}{below + ranks}"
        )


def processes(cfg: DictConfig) -> int | None:
    """How many processes will train; None where that is not known before they start."""
    wanted, nodes = cfg.trainer.devices, get(cfg, "trainer.num_nodes") or 1
    if isinstance(wanted, ListConfig):
        return len(wanted) * nodes
    if isinstance(wanted, int) and wanted > 0:
        return wanted * nodes
    if cfg.trainer.accelerator in ("gpu", "cuda", "auto") and wanted in (-1, "auto"):
        return max(1, machine.count_gpus()) * nodes
    return nodes if cfg.trainer.accelerator in ("cpu", "mps") and wanted == "auto" else None


def _on_cpu(cfg: DictConfig) -> bool:
    accelerator = cfg.trainer.accelerator
    return accelerator == "cpu" or (accelerator == "auto" and machine.count_gpus() == 0)


def samples_of(cfg: DictConfig) -> int | None:
    """Samples that are trained on, where the config says so."""
    total, held = get(cfg, "data.num_samples"), get(cfg, "data.num_val")
    return total - held if isinstance(total, int) and isinstance(held, int) else None
