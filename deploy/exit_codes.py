"""How the tool ends, from sysexits.h where it has one."""

FAILED, USAGE, DENIED, CONFIG, INTERRUPTED = 1, 64, 77, 78, 130
