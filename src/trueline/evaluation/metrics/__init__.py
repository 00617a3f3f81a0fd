"""Metrics: pure functions of features, detections or numbers. What looks at pictures is in ``perception``."""
