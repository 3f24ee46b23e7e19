"""The bodies of the task types; what each declares is in `contract.tasks`."""
