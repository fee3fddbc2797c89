"""From records and the paper's numbers to tables: pandas and the standard library, neither torch
nor Hydra."""
