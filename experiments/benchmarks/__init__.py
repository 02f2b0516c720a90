"""The project's own benchmarks: ratios against a peer or a limit, measured side by side."""
