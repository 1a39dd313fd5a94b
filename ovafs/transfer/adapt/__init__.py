"""Guests of other hypervisors are adapted to the one that they were imported into, before their machines are there."""
