"""A run's configuration: composed by Hydra, typed, and refused in one line if it does not fit."""
