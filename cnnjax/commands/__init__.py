"""The command-line interface: `cnnjax train`, `sweep`, `predict`, `merge`, `diff` and `prepare`."""
