"""The device side: measures, scans, reports and carries out commands — without the server's packages."""
