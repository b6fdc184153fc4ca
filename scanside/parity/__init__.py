"""Parity: how far a precision is from its reference, and the certificate that the engine's gate asks for."""
