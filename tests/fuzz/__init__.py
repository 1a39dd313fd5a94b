"""Damaged input for everything that reads packages: ``make fuzz MINUTES=20``; a short run is among the tests."""
