"""`python -m emu.catalogue > docs/chips.md`: the catalogue as a page."""

from emu.catalogued import catalogue
from emu.chip_table import page

print(page(catalogue()), end="")
