"""A small but real text-to-speech API in ElevenLabs' shape, metered by `usage_meter`. See README.md."""
