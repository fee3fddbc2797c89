"""Sweeps: which runs an artefact needs, which records answer them, and what is missing."""
