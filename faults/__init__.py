"""What diffeo must survive: killed runs, full disks, hostile files, crowds and lost machines."""
