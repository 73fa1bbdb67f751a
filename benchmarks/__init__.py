"""Experiments that print the tables of docs/ and hold the whole way from model to machine code against its past."""
