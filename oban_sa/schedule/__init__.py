"""Moments, spans of time and cron expressions."""
