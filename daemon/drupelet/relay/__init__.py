"""The relay: a program on a public machine, for nodes that cannot be reached (adr/0016)."""
