"""Plain Python shared by every layer: configs, events, control, errors, paths, settings, units."""
