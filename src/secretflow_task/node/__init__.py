"""The long-lived half: never imports the engine, starts and watches job processes, settles
executions.
"""
