"""Defines ranges for signatures, such as `dropout: Probability = 0.0`; `config.schema` checks configs by them."""

from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval


class _File:
    """Marks text as the path of a file that must be there."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        return handler(schema) | {"format": "file-path"}


PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
InnerFraction = Annotated[float, Interval(gt=0, lt=1)]  # excludes none and all
Probability = Annotated[float, Interval(ge=0, lt=1)]  # of dropping something, so not all
CountOrShare = PositiveInt | InnerFraction  # of samples: a whole number, or a share of them
AtLeastTwo = Annotated[int, Ge(2)]  # classes to tell apart, rows of a covariance
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]  # what numpy takes
ImageShape = tuple[PositiveInt, PositiveInt, PositiveInt]  # channels, height, width
FilePath = Annotated[str, _File]
PixelMeanStd = tuple[float, PositiveFloat]
