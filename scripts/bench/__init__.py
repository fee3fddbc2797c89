"""Benchmarks: time, memory and endurance of the optimizers, as JSON."""
