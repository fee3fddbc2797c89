"""Figures: one module a figure, all in one style."""
