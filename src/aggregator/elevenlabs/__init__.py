"""ElevenLabs' own calls, so that their unmodified SDK works against this service: docs/elevenlabs.md says how far."""
