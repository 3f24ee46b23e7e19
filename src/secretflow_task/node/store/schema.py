"""The tables of a node's store."""

from __future__ import annotations

SCHEMA = """
CREATE TABLE IF NOT EXISTS node (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS executions (
    execution_id TEXT NOT NULL,
    party TEXT NOT NULL,
    task_request_id TEXT NOT NULL,
    task_id TEXT,
    subtask_id TEXT,
    params TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'RUNNING',
    taken_at REAL NOT NULL,
    PRIMARY KEY (execution_id, party)
);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    execution_id TEXT NOT NULL,
    party TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    body TEXT NOT NULL,
    sent_at REAL
);
CREATE TABLE IF NOT EXISTS results (
    execution_id TEXT NOT NULL,
    party TEXT NOT NULL,
    result TEXT NOT NULL,
    PRIMARY KEY (execution_id, party)
);
CREATE TABLE IF NOT EXISTS decisions (execution_id TEXT PRIMARY KEY, decided_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS unsent ON events (number) WHERE sent_at IS NULL;
CREATE INDEX IF NOT EXISTS sent ON events (sent_at) WHERE sent_at IS NOT NULL;
"""
