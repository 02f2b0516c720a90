"""The jobs: launchers, configs, workloads, published figures."""
