"""What a run leaves on disk to go on from: its weights, or the log of its steps."""
