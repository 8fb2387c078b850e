"""Metrics: functions of feature arrays, exact, each held to a public implementation."""
