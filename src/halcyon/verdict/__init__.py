"""Statistics, and the decision: is the dynamics calm, and does the campaign go on?"""
