"""Questions to the design space: fronts, inverse design, where the weights have to fit."""
