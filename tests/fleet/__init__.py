"""Our scheduler against others on a real trace, in virtual time: the same outcome on every machine."""
