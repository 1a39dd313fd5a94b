"""The command line: builds everything, holds no logic of its own."""
