"""`python -m emu.catalogue > docs/chips.md`: the catalogue as a page."""

from emu.chip_names import catalogue
from emu.chip_table import page

print(page(catalogue()), end="")
