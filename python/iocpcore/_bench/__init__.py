"""What measures servers: processes, loads, results and their picture.

For ``python -m iocpcore bench`` and ``demo``, and for benchmarks/ of the checkout.
"""
