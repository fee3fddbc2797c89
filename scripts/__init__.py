"""Commands that measure, draw and maintain, run with `python -m scripts.FOLDER.NAME`."""
