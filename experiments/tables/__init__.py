"""Tables: from records, measurements and the paper's numbers to sections of text."""
