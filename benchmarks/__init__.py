"""Experiments that print the tables of docs/, and a record of the machine code of networks to compare with."""
