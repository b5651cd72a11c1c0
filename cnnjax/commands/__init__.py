"""The command line: argv and screen of `cnnjax train`, `sweep`, `merge`, `diff` and `prepare`."""
