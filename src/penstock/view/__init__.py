"""Readers of timelines and plans: text, pictures, one self-contained page, and Perfetto traces."""
