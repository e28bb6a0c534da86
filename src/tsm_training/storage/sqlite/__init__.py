"""The store in one SQLite file: opening, using, checking and copying it."""
