"""Rewards: how good a picture is for its prompt, with a gradient to its pixels."""
