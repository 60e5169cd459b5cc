"""Nanobodies of subnet 68 since 2026: what makes a sequence valid, and how competing designs are ranked."""
