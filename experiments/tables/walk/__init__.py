"""The walk in low precision: its table, and the runs beside its grid."""
