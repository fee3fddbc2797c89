"""The optimizers inside what people already have; each module needs the library that it is named
after."""
