"""One run, and what becomes of it: compose, build, train, evaluate, record."""
