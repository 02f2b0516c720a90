"""Serving software as data: stacks.toml is what is known of each, fitted.toml what was fitted."""
