"""A cell -> the objects that are applied for it."""
