"""Numbered scripts; each runs by itself: python examples/exampleNN_topic.py."""
