"""The authenticator of people: signs them in at their org's provider and discharges tickets.

It shares nothing with the rest of the node but a key for each org, and could run by itself."""
