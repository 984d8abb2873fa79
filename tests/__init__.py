"""Tests, by what they need: unit, property, faults, integration, engines."""
