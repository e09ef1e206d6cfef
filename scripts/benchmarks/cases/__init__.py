"""What is measured: a module per kind of reading, with functions from a Bench to a Result."""
