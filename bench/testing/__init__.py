"""What authors of plug-ins need in order to test theirs."""
