"""`halcyon doctor`: does everything that a campaign needs work here?"""
