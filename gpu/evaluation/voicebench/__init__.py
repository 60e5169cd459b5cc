"""VoiceBench: its data set and its evaluators."""
