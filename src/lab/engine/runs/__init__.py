"""Records, reads, resumes and reproduces runs by their directories."""
