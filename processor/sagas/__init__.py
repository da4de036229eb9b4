"""One table of states a file: what each answer leads to, and which command follows."""
