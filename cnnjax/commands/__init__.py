"""The command-line interface: `cnnjax train`, `sweep`, `merge`, `diff` and `prepare`."""
