"""Described chips, as data: one TOML file for each vendor; README.md has the format."""
