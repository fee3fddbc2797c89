"""The study on a real model: its rows, the sections of its table, and its other measurements."""
