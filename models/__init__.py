"""Decoders in Flax NNX: weights from files, prefill and decode as pure functions, generation."""
