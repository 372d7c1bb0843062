"""What listing and operating cost, measured beside other tools in one run: `make bench`."""
