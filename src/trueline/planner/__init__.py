"""Planners: a prompt in, a layout out."""
