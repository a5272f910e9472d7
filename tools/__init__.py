"""Instruments that read a language model: each returns readings beside their controls."""
