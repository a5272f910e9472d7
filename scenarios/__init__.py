"""What is planted, and the scripted audits that look for it."""
