"""The status listener: from the stream of events in Redis to a database that a web application can
query.
"""
