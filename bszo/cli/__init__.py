"""The command `bszo`: fine-tuning of a model on rows of one's own, the range test of learning rates
and the replay of a run's log, for those who write no Python."""
