"""What every server is made of: contracts, composition, lifecycle. Imports no other room of plugsocket."""
