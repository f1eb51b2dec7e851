"""The ledger: every number of the papers beside ours, with a status, and the claims they carry."""
