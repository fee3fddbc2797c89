"""Studies: what is measured or chosen beside the tables' runs."""
