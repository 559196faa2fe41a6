"""Losses on the lengths of class capsules."""
