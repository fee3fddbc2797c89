"""One run: built from its configuration, trained, evaluated, saved and summarized."""
