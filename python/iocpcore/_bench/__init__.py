"""Measures servers: processes, loads, results and pictures of them.

Used by ``python -m iocpcore bench`` and ``demo``, and by benchmarks/ of the checkout.
"""
