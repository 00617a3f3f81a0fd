"""What training minimises: one file for each system, with its nets, its losses and its ``train.Objective``."""
