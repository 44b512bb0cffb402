"""The parts of the Membership, all pure: rows, rumours and their exchange, and whom to dial."""
