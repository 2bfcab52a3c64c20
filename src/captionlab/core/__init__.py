"""What every part uses: files, devices and their arithmetic, processes, records."""
