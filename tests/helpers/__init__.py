"""Fixtures shared by the test areas."""
