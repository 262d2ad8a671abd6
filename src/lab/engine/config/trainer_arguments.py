"""Narrows the types of Lightning's Trainer, whose annotations allow values that its constructor refuses."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval
from pydantic import Field

from lab.engine.utils.ranges import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt

# "0,1" are two devices, and -1 are all
DeviceText = Annotated[str, Field(pattern=r"^-?\d+(, *\d+)*$", examples=["0,1"])]
DeviceList = Annotated[list[NonNegativeInt], Field(min_length=1, json_schema_extra={"uniqueItems": True})]
TimeSpan = Annotated[str, Field(pattern=r"^\d+:\d\d:\d\d:\d\d$", examples=["00:12:00:00"])]  # days first
Batches = NonNegativeInt | Fraction | None  # a whole number of them, or a share of an epoch's


def trainer_arguments() -> dict[str, Any]:
    """Returns annotations of Trainer arguments by name; choices are those of Lightning's registries."""
    from pytorch_lightning.accelerators import Accelerator, AcceleratorRegistry
    from pytorch_lightning.strategies import Strategy, StrategyRegistry

    accelerators: Any = Literal["auto", "gpu", *sorted(AcceleratorRegistry.available_accelerators())]
    strategies: Any = Literal["auto", *StrategyRegistry.available_strategies()]
    limits = (f"limit_{stage}_batches" for stage in ("train", "val", "test", "predict"))
    return {
        "accelerator": accelerators | Accelerator,
        "strategy": strategies | Strategy,
        "devices": Literal["auto", -1] | PositiveInt | DeviceText | DeviceList,
        "max_time": TimeSpan | dict[str, int] | None,
        "gradient_clip_algorithm": Literal["norm", "value"] | None,
        "profiler": Literal["simple", "advanced", "pytorch", "xla"] | None,
        "gradient_clip_val": NonNegativeFloat | None,
        "max_epochs": Annotated[int, Ge(-1)] | None,
        "max_steps": Annotated[int, Ge(-1)],
        **dict.fromkeys(("min_epochs", "min_steps"), NonNegativeInt | None),
        "num_sanity_val_steps": Annotated[int, Ge(-1)] | None,
        **dict.fromkeys(("num_nodes", "accumulate_grad_batches"), PositiveInt),
        **dict.fromkeys(("log_every_n_steps", "check_val_every_n_epoch"), PositiveInt | None),
        "reload_dataloaders_every_n_epochs": NonNegativeInt,
        "val_check_interval": PositiveInt | Annotated[float, Interval(gt=0, le=1)] | str | dict[str, int] | None,
        **dict.fromkeys(limits, Batches),
        "overfit_batches": NonNegativeInt | Fraction,
    }
