"""The long-lived half: it never imports the engine, starts job processes, watches them and settles executions."""
