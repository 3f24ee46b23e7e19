BEGIN TRANSACTION;
CREATE TABLE decisions (execution_id TEXT PRIMARY KEY, decided_at REAL NOT NULL);
INSERT INTO "decisions" VALUES('e-3',1.79600684894360494619e+09);
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    execution_id TEXT NOT NULL,
    party TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    body TEXT NOT NULL,
    sent_at REAL
);
INSERT INTO "events" VALUES(1,'e-1','alice',1,'{"execution_id": "e-1", "task_request_id": "r-1", "party": "alice", "status": "RUNNING", "data": {"stage": "accepted", "progress": 0}, "worker_container": "node-1", "task_name": "tasks.secretflow.execute_task", "seq": 1, "task_id": "t-1", "subtask_id": null, "task_type": "psi", "timestamp": "2026-11-23T20:00:01+00:00", "event_id": "00000000000000000000000000000001"}',1.79600684892744016647e+09);
INSERT INTO "events" VALUES(2,'e-1','bob',1,'{"execution_id": "e-1", "task_request_id": "r-1", "party": "bob", "status": "RUNNING", "data": {"stage": "accepted", "progress": 0}, "worker_container": "node-1", "task_name": "tasks.secretflow.execute_task", "seq": 1, "task_id": "t-1", "subtask_id": null, "task_type": "psi", "timestamp": "2026-11-23T20:00:02+00:00", "event_id": "00000000000000000000000000000002"}',1.79600684892744016647e+09);
INSERT INTO "events" VALUES(3,'e-1','alice',1,'{"execution_id": "e-1", "task_request_id": "r-1", "party": "alice", "status": "RUNNING", "data": {"stage": "task_execution", "progress": 0.5, "note": "数据 \"''"}, "worker_container": "node-1", "task_name": "tasks.secretflow.execute_task", "seq": 2, "task_id": "t-1", "subtask_id": null, "task_type": "psi", "timestamp": "2026-11-23T20:00:03+00:00", "event_id": "00000000000000000000000000000003"}',NULL);
INSERT INTO "events" VALUES(4,'e-1','bob',1,'{"execution_id": "e-1", "task_request_id": "r-1", "party": "bob", "status": "RUNNING", "data": {"stage": "task_execution", "progress": 0.5}, "worker_container": "node-1", "task_name": "tasks.secretflow.execute_task", "seq": 2, "task_id": "t-1", "subtask_id": null, "task_type": "psi", "timestamp": "2026-11-23T20:00:04+00:00", "event_id": "00000000000000000000000000000004"}',NULL);
INSERT INTO "events" VALUES(5,'e-1','bob',1,'{"execution_id": "e-1", "task_request_id": "r-1", "party": "bob", "status": "SUCCESS", "data": {"result": {"rows": 7, "ratio": 0.25}}, "worker_container": "node-1", "task_name": "tasks.secretflow.execute_task", "seq": 3, "task_id": "t-1", "subtask_id": null, "task_type": "psi", "timestamp": "2026-11-23T20:00:05+00:00", "event_id": "00000000000000000000000000000005"}',NULL);
INSERT INTO "events" VALUES(6,'e-2','bob',2,'{"execution_id": "e-2", "task_request_id": "r-2", "party": "bob", "status": "RUNNING", "data": {"stage": "cluster_init", "progress": 0.1}, "worker_container": "node-1", "task_name": "tasks.secretflow.execute_task", "seq": 5, "task_id": "t-1", "subtask_id": null, "task_type": "psi", "timestamp": "2026-11-23T20:00:06+00:00", "event_id": "00000000000000000000000000000006"}',NULL);
INSERT INTO "events" VALUES(7,'e-3','alice',1,'{"execution_id": "e-3", "task_request_id": "r-3", "party": "alice", "status": "FAILURE", "data": {"error": "A job died.", "error_code": "JobProcessDied", "ratio": null}, "worker_container": "node-1", "task_name": "tasks.secretflow.execute_task", "seq": 1, "task_id": "t-1", "subtask_id": null, "task_type": "psi", "timestamp": "2026-11-23T20:00:07+00:00", "event_id": "00000000000000000000000000000007"}',NULL);
CREATE TABLE executions (
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
INSERT INTO "executions" VALUES('e-1','alice','r-1','t-1','s-1','{"sf_init_config": {"parties": ["alice", "bob"]}, "task_config": {"task_type": "psi", "note": "\u6570\u636e"}}',1,2,'RUNNING',1.79600684892075395586e+09);
INSERT INTO "executions" VALUES('e-1','bob','r-1','t-1','s-1','{"sf_init_config": {"parties": ["alice", "bob"]}, "task_config": {"task_type": "psi", "note": "\u6570\u636e"}}',1,3,'SUCCESS',1.79600684892075395586e+09);
INSERT INTO "executions" VALUES('e-2','bob','r-2',NULL,NULL,'{"sf_init_config": {"parties": ["alice", "bob"]}, "task_config": {"task_type": "logistic_regression", "note": "\u6570\u636e"}}',2,5,'RUNNING',1.79600684893480849269e+09);
INSERT INTO "executions" VALUES('e-3','alice','r-3',NULL,NULL,'{"sf_init_config": {"parties": ["alice", "bob"]}, "task_config": {"task_type": "psi", "note": "\u6570\u636e"}}',1,1,'FAILURE',1796006848.93567);
INSERT INTO "executions" VALUES('e-4','alice','r-4',NULL,NULL,'{"sf_init_config": {"parties": ["alice", "bob"]}, "task_config": {"task_type": "psi", "note": "\u6570\u636e"}}',1,0,'RUNNING',1.79600684893791413309e+09);
INSERT INTO "executions" VALUES('e-5','alice','r-5',NULL,NULL,'{"sf_init_config": {"parties": ["alice", "bob"]}, "task_config": {"task_type": "psi", "note": "\u6570\u636e"}}',1,1,'TAKEN_OVER',1.79600684893809843067e+09);
CREATE TABLE node (id TEXT NOT NULL);
INSERT INTO "node" VALUES('505bf276024b479cad68d401fc311088');
CREATE TABLE results (
    execution_id TEXT NOT NULL,
    party TEXT NOT NULL,
    result TEXT NOT NULL,
    PRIMARY KEY (execution_id, party)
);
INSERT INTO "results" VALUES('e-2','bob','{"rows": 9, "note": "\u6570\u636e"}');
CREATE INDEX unsent ON events (number) WHERE sent_at IS NULL;
CREATE INDEX sent ON events (sent_at) WHERE sent_at IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',8);
COMMIT;
