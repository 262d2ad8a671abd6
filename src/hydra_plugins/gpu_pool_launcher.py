"""Launches a fresh process for each job, as many at a time as this machine has slots: hydra/launcher=gpu_pool."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lab.engine.utils.ranges import NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    from lab.engine.sweeps.pool import Pool


class GpuPoolLauncher(Launcher):
    """Runs jobs on the GPUs of this machine, or on its cores where there are none.

    Args:
        jobs_per_device: that share a GPU (or `devices_per_job` of them), or a group of cores.
        devices: which GPUs, by their place among those that are visible; None for all, an empty list for the cores.
        devices_per_job: GPUs that a job is shown.
        cores_per_job: that a job is held to, where it is given no GPU.
    """

    def __init__(
        self,
        jobs_per_device: PositiveInt = 1,
        devices: Sequence[NonNegativeInt] | None = None,
        devices_per_job: PositiveInt = 1,
        cores_per_job: PositiveInt = 1,
    ) -> None:
        self.sizes = jobs_per_device, devices, devices_per_job, cores_per_job
        self.pool: Pool | None = None
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from lab.engine.sweeps.device_slots import device_slots
        from lab.engine.sweeps.pool import Pool

        self.config, self.hydra_context = config, hydra_context
        self.pool = Pool(device_slots(*self.sizes))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from lab.engine.sweeps.pool import PoolJob

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.pool is not None
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        load = self.hydra_context.config_loader.load_sweep_config
        return self.pool.run(
            [
                PoolJob.prepare(load(self.config, list(overrides)), overrides, initial_job_idx + i)
                for i, overrides in enumerate(job_overrides)
            ]
        )
