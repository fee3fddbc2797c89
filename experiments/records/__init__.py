"""Records: one signed JSON object a run, where it came from, and the files that hold it."""
