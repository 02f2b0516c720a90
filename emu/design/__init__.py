"""The design space: grids of systems, inverse design, fronts."""
