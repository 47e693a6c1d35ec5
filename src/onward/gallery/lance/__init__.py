"""The gallery in a directory, a LanceDB database: what only Lance makes necessary stays in here."""
