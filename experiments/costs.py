"""What an instance costs: dollars an hour, rented or bought and written off."""

import dataclasses

import emu
from experiments.deployment import Hardware
from experiments.errors import ExperimentError
from experiments.step_times import StepTimes

_HOURS = 8766.0  # of a year


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """From prices of chips to dollars an hour; the config says where each number is from."""

    write_off_years: float = 4.0  # of a chip that is bought
    beside_chips: float = 1.5  # hosts, network and building: a bought chip costs so many times
    usd_per_kwh: float = 0.08
    cooling: float = 1.2  # power of the building over power of the chips (PUE)
    cached_price: float = 0.1  # of a token that is in the cache, over the price of one that is not

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 0 or self.write_off_years == 0:
            raise ExperimentError("costs must not be negative, and write_off_years not 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Price:
    """Dollars an hour of an instance, the range it may lie in, and how it was come by."""

    usd_per_hour: float
    low: float
    high: float
    how: str

    def of(self, chips: int) -> "Price":
        """Of so many."""
        return Price(
            usd_per_hour=chips * self.usd_per_hour,
            low=chips * self.low,
            high=chips * self.high,
            how=self.how,
        )


def price(hardware: Hardware, times: StepTimes, costs: Costs) -> Price:
    """Of an instance: the config's price, the catalogue's rent, or its price written off.

    Raises ExperimentError where none is known.
    """
    chip = emu.chip(hardware.chip)
    given = hardware.price_usd_per_chip_hour
    if given:
        factor = hardware.price_factor
        each, how = (given / factor, given, given * factor), "assumed"
        return _price(each, how).of(times.chips)
    known = catalogued(chip, times.power_w / times.chips, costs)
    if known is None:
        raise ExperimentError(
            f"{hardware.chip}: the catalogue has no price; give price_usd_per_chip_hour"
        )
    return known.of(times.chips)


def catalogued(chip: emu.Chip, power_w: float, costs: Costs) -> Price | None:
    """Of one chip: the catalogue's rent, or its price written off with the power it takes."""
    if chip.price_usd_per_hour is not None:
        return _price(_range(chip.price_usd_per_hour), "rented, catalogue")
    if chip.price_usd is None:
        return None
    hours = costs.write_off_years * _HOURS
    power = power_w / 1e3 * costs.cooling * costs.usd_per_kwh
    low, value, high = (n * costs.beside_chips / hours + power for n in _range(chip.price_usd))
    how = f"bought, {chip.price_usd.kind}, over {costs.write_off_years:g} years"
    return _price((low, value, high), how)


def _range(number: emu.Sourced) -> tuple[float, float, float]:
    value = float(number.value)
    low = value if number.low is None else float(number.low)
    high = value if number.high is None else float(number.high)
    return low, value, high


def _price(each: tuple[float, float, float], how: str) -> Price:
    low, value, high = each
    return Price(usd_per_hour=value, low=low, high=high, how=how)
