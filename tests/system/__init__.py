"""Tests of the machine readings and checks."""
