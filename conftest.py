"""Wires this repository's catalog into suites/: `fixtures/` beside this file is found by the plugin as the rootdir's catalog."""
