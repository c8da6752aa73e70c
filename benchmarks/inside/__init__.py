"""What things cost inside one process: `python -m pytest benchmarks/inside`."""
