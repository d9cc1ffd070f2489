"""mDNS in a process of its own, alone with the LAN's packets. See daemon/docs/adr/0005."""
